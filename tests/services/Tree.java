// A ZooKeeper ensemble seen and filled by ZooKeeper's own client. Run as a source file:
//   java -cp 'LIB/*' Tree.java fill PORT COUNT    creates COUNT znodes of every kind, says "ready", and keeps its session (and so its
//                                                 ephemeral znodes) until standard input ends
//   java -cp 'LIB/*' Tree.java walk PORT          one line for each znode: path, kind, data as hexadecimal, access control list
import java.nio.charset.StandardCharsets;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.HexFormat;
import java.util.List;
import java.util.concurrent.CountDownLatch;
import java.util.concurrent.Semaphore;
import java.util.concurrent.atomic.AtomicInteger;
import org.apache.zookeeper.CreateMode;
import org.apache.zookeeper.Watcher.Event.KeeperState;
import org.apache.zookeeper.ZooDefs.Ids;
import org.apache.zookeeper.ZooDefs.Perms;
import org.apache.zookeeper.ZooKeeper;
import org.apache.zookeeper.data.ACL;
import org.apache.zookeeper.data.Id;
import org.apache.zookeeper.data.Stat;
import org.apache.zookeeper.server.auth.DigestAuthenticationProvider;

public class Tree {
    public static void main(String[] arguments) throws Exception {
        CountDownLatch connected = new CountDownLatch(1);
        ZooKeeper client = new ZooKeeper("127.0.0.1:" + arguments[1], 30000, event -> {
            if (event.getState() == KeeperState.SyncConnected) connected.countDown();
        });
        connected.await();
        client.addAuthInfo("digest", "bob:secret".getBytes(StandardCharsets.UTF_8));
        if (arguments[0].equals("fill")) fill(client, Integer.parseInt(arguments[2]));
        else walk(client, "/");
        client.close();
    }

    static void fill(ZooKeeper client, int count) throws Exception {
        List<ACL> bobs = Arrays.asList(new ACL(Perms.ALL, new Id("digest", DigestAuthenticationProvider.generateDigest("bob:secret"))));
        List<ACL> two = Arrays.asList(new ACL(Perms.READ, Ids.ANYONE_ID_UNSAFE), new ACL(Perms.ALL, new Id("ip", "127.0.0.1")));
        byte[] binary = new byte[256];
        for (int at = 0; at < binary.length; at++) binary[at] = (byte) at;
        String[] fixed = {"/binary", "/empty", "/none", "/bobs", "/bobs/below", "/two", "/käse", "/large"};
        byte[][] data = {binary, new byte[0], null, "secret".getBytes(), binary, null, "ü".getBytes(StandardCharsets.UTF_8), new byte[1000000]};
        List<List<ACL>> lists = List.of(Ids.OPEN_ACL_UNSAFE, Ids.OPEN_ACL_UNSAFE, Ids.OPEN_ACL_UNSAFE, bobs, bobs, two, Ids.OPEN_ACL_UNSAFE, bobs);
        for (int at = 0; at < fixed.length; at++) client.create(fixed[at], data[at], lists.get(at), CreateMode.PERSISTENT);
        client.create("/container", null, Ids.OPEN_ACL_UNSAFE, CreateMode.CONTAINER);
        client.create("/container/child", binary, Ids.OPEN_ACL_UNSAFE, CreateMode.PERSISTENT);
        client.create("/ttl", binary, bobs, CreateMode.PERSISTENT_WITH_TTL, new Stat(), 3600000);
        client.create("/queue", null, Ids.OPEN_ACL_UNSAFE, CreateMode.PERSISTENT);
        client.create("/queue/item-", binary, Ids.OPEN_ACL_UNSAFE, CreateMode.PERSISTENT_SEQUENTIAL);
        client.create("/queue/session-", binary, Ids.OPEN_ACL_UNSAFE, CreateMode.EPHEMERAL_SEQUENTIAL);
        client.create("/session", null, Ids.OPEN_ACL_UNSAFE, CreateMode.EPHEMERAL);
        client.setData("/binary", binary, -1);
        int made = fixed.length + 7;
        List<String> paths = new ArrayList<>();
        for (int group = 0; made + paths.size() < count; group++) {
            paths.add("/group-" + group);
            for (int one = 0; one < 99 && made + paths.size() < count; one++) paths.add("/group-" + group + (one < 50 ? "/" : "/0/") + one);
        }
        Semaphore room = new Semaphore(500);
        AtomicInteger failed = new AtomicInteger();
        for (String path : paths) {
            room.acquire();
            byte[] bytes = path.hashCode() % 3 == 0 ? binary : path.getBytes(StandardCharsets.UTF_8);
            client.create(path, bytes, path.hashCode() % 5 == 0 ? bobs : Ids.OPEN_ACL_UNSAFE, CreateMode.PERSISTENT, (code, at, context, name) -> {
                if (code != 0) failed.incrementAndGet();
                room.release();
            }, null);
        }
        room.acquire(500);
        if (failed.get() > 0) throw new IllegalStateException(failed + " znodes were not created");
        System.out.println("ready");
        while (System.in.read() >= 0) { }
    }

    static void walk(ZooKeeper client, String path) throws Exception {
        Stat stat = new Stat();
        byte[] data = client.getData(path, false, stat);
        long owner = stat.getEphemeralOwner();
        String kind = owner == 0 ? "persistent" : "ephemeral";
        List<String> list = new ArrayList<>();
        for (ACL acl : client.getACL(path, null)) list.add(acl.getPerms() + ":" + acl.getId().getScheme() + ":" + acl.getId().getId());
        System.out.println(path + "\t" + kind + "\t" + (data == null ? "none" : "=" + HexFormat.of().formatHex(data)) + "\t" + list);
        List<String> children = client.getChildren(path, false);
        children.sort(null);
        for (String child : children) walk(client, path.equals("/") ? "/" + child : path + "/" + child);
    }
}
