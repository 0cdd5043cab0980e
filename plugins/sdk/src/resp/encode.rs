//! Commands as RESP arrays of bulk strings.

/// Appends one command.
pub fn command(out: &mut Vec<u8>, arguments: &[&[u8]]) {
    push_header(out, arguments.len());
    for argument in arguments {
        push_argument(out, argument);
    }
}

/// Appends the head of a command with so many arguments (its name counts).
pub fn push_header(out: &mut Vec<u8>, arguments: usize) {
    push_number(out, b'*', arguments as u64);
}

/// Appends one whole argument.
pub fn push_argument(out: &mut Vec<u8>, argument: &[u8]) {
    push_length(out, argument.len() as u64);
    out.extend_from_slice(argument);
    out.extend_from_slice(b"\r\n");
}

/// Appends the head of an argument of so many bytes; they and a final `\r\n` are the caller's.
pub fn push_length(out: &mut Vec<u8>, length: u64) {
    push_number(out, b'$', length);
}

fn push_number(out: &mut Vec<u8>, mark: u8, mut number: u64) {
    let mut digits = [0u8; 20];
    let mut at = digits.len();
    loop {
        at -= 1;
        digits[at] = b'0' + (number % 10) as u8;
        number /= 10;
        if number == 0 {
            break;
        }
    }
    out.push(mark);
    out.extend_from_slice(&digits[at..]);
    out.extend_from_slice(b"\r\n");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_is_an_array_of_bulk_strings() {
        let mut out = Vec::new();
        command(&mut out, &[b"SET", b"k\r\n", b""]);
        assert_eq!(out, b"*3\r\n$3\r\nSET\r\n$3\r\nk\r\n\r\n$0\r\n\r\n");
        out.clear();
        push_length(&mut out, u64::MAX);
        assert_eq!(out, b"$18446744073709551615\r\n");
    }
}
