//! A synthetic primary: speaks just enough of the replication protocol to send an RDB of any size that nobody has to hold.

use std::net::SocketAddr;

use anyhow::Result;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};

/// Bytes of a value of the stream.
const VALUE: usize = 4096;
/// Bytes of the one large value.
const LARGE: u64 = 600 << 20;
const MARK: &[u8; 40] = b"0123456789abcdef0123456789abcdef01234567";

/// Serves replication of about `bytes` of RDB on a free port until the runtime ends; returns the address.
pub(crate) async fn serve(bytes: u64) -> Result<SocketAddr> {
    let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
    let address = listener.local_addr()?;
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                let _ = answer(stream, bytes).await;
            });
        }
    });
    Ok(address)
}

async fn answer(stream: TcpStream, bytes: u64) -> Result<()> {
    let mut stream = BufReader::new(stream);
    loop {
        let command = read_command(&mut stream).await?;
        let Some(name) = command.first() else { return Ok(()) };
        match name.to_ascii_uppercase().as_slice() {
            b"PING" => stream.write_all(b"+PONG\r\n").await?,
            b"INFO" => {
                let text = "# Server\r\nredis_version:7.0.15\r\nredis_mode:standalone\r\n# Persistence\r\nloading:0\r\nrdb_bgsave_in_progress:0\r\n# Replication\r\nrole:master\r\nconnected_slaves:0\r\nmaster_replid:1111111111111111111111111111111111111111\r\nmaster_repl_offset:0\r\n# Keyspace\r\n";
                stream.write_all(format!("${}\r\n{text}\r\n", text.len()).as_bytes()).await?;
            }
            b"PSYNC" => {
                stream.write_all(b"+FULLRESYNC 1111111111111111111111111111111111111111 0\r\n").await?;
                stream.write_all(b"$EOF:").await?;
                stream.write_all(MARK).await?;
                stream.write_all(b"\r\n").await?;
                send(&mut stream, bytes).await?;
                stream.write_all(MARK).await?;
                stream.flush().await?;
                // The reader closes; until then its acknowledgements are read.
                while !read_command(&mut stream).await?.is_empty() {}
                return Ok(());
            }
            b"REPLCONF" | b"CLIENT" | b"SELECT" => stream.write_all(b"+OK\r\n").await?,
            _ => stream.write_all(b"-ERR unknown command\r\n").await?,
        }
        stream.flush().await?;
    }
}

async fn read_command(stream: &mut BufReader<TcpStream>) -> Result<Vec<Vec<u8>>> {
    let mut line = String::new();
    if stream.read_line(&mut line).await? == 0 {
        return Ok(Vec::new());
    }
    let count: usize = line.trim().trim_start_matches('*').parse().unwrap_or(0);
    let mut command = Vec::new();
    for _ in 0..count {
        line.clear();
        stream.read_line(&mut line).await?;
        let length: usize = line.trim().trim_start_matches('$').parse()?;
        let mut argument = vec![0; length + 2];
        stream.read_exact(&mut argument).await?;
        argument.truncate(length);
        command.push(argument);
    }
    Ok(command)
}

fn length(value: u64) -> Vec<u8> {
    match u32::try_from(value) {
        Ok(small) => [&[0x80][..], &small.to_be_bytes()].concat(),
        Err(_) => [&[0x81][..], &value.to_be_bytes()].concat(),
    }
}

/// An RDB of version 9 with checksum 0 (`rdbchecksum no`).
async fn send(stream: &mut BufReader<TcpStream>, bytes: u64) -> Result<()> {
    stream.write_all(b"REDIS0009\xfe\x00").await?;
    let mut value: Vec<u8> = b"synthetic ".iter().copied().cycle().take(VALUE).collect();
    let mut sent: u64 = 0;
    let mut number: u64 = 0;
    let mut batch = Vec::with_capacity(1 << 20);
    while sent < bytes {
        batch.clear();
        while batch.len() < (1 << 20) - 2 * VALUE {
            number += 1;
            let key = format!("key:{number:012}");
            value[..8].copy_from_slice(&number.wrapping_mul(0x9E37_79B9_7F4A_7C15).to_be_bytes());
            batch.push(0);
            batch.extend(length(key.len() as u64));
            batch.extend(key.as_bytes());
            batch.extend(length(value.len() as u64));
            batch.extend(&value);
        }
        stream.write_all(&batch).await?;
        sent += batch.len() as u64;
    }
    let mut head = vec![0];
    head.extend(length(5));
    head.extend(b"large");
    head.extend(length(LARGE));
    stream.write_all(&head).await?;
    let block = vec![b'x'; 1 << 20];
    for _ in 0..LARGE >> 20 {
        stream.write_all(&block).await?;
    }
    stream.write_all(b"\xff\0\0\0\0\0\0\0\0").await?;
    Ok(())
}
