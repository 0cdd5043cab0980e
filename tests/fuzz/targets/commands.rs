//! The commands that a live restore sends, as a server would read them.

/// The commands that were sent, each as its arguments. What is no whole command fails the run.
pub fn read(mut bytes: &[u8]) -> Vec<Vec<&[u8]>> {
    let mut commands = Vec::new();
    while !bytes.is_empty() {
        let count = number(&mut bytes, b'*');
        let mut arguments = Vec::new();
        for _ in 0..count {
            let length = number(&mut bytes, b'$');
            let (argument, rest) = bytes.split_at(length);
            bytes = rest.strip_prefix(b"\r\n").expect("an argument ends where its length says");
            arguments.push(argument);
        }
        commands.push(arguments);
    }
    commands
}

/// `*N` or `$N` with its line end.
fn number(bytes: &mut &[u8], mark: u8) -> usize {
    let line = bytes.windows(2).position(|pair| pair == b"\r\n").expect("a line ends");
    assert_eq!(bytes.first(), Some(&mark));
    let digits = std::str::from_utf8(&bytes[1..line]).expect("digits");
    *bytes = &bytes[line + 2..];
    digits.parse().expect("a number")
}
