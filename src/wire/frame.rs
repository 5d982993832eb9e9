//! Lines out of bytes: where one request ends and the next begins, limits first.

use super::{MAX_LINE, MAX_SECRET};

/// What stands at the front of the bytes read so far.
#[derive(Debug, PartialEq, Eq)]
pub enum Frame<'a> {
    /// Three whole lines, without their ends; `used` bytes belong to them.
    Whole { lines: [&'a [u8]; 3], used: usize },
    /// Not yet a request; `lines` of its three are there.
    Partial { lines: usize },
    /// A line is longer than any request's may be.
    TooLong,
    /// HTTP, or what speaks like it: no request, and what follows is none either.
    Http,
}

/// Looks for one request at the front of `input`.
pub fn next_frame(input: &[u8]) -> Frame<'_> {
    let mut lines = [&input[..0]; 3];
    let mut used = 0;
    for number in 0..lines.len() {
        let rest = &input[used..];
        let limit = if number == 2 && lines[0] == b"auth" { MAX_SECRET } else { MAX_LINE };
        let window = &rest[..rest.len().min(limit + 1)];
        let Some(end) = window.iter().position(|byte| *byte == b'\n') else {
            return if window.len() > limit { Frame::TooLong } else { Frame::Partial { lines: number } };
        };
        lines[number] = without_cr(&rest[..end]);
        used += end + 1;
        if number < 2 && is_http(&lines[..=number]) {
            return Frame::Http;
        }
    }
    Frame::Whole { lines, used }
}

/// A page in a browser can have any bytes sent to a server that the browser reaches, but only behind these. A key may
/// begin with `Host:` all the same: no command has a space in it.
fn is_http(lines: &[&[u8]]) -> bool {
    let has_version = |line: &[u8]| line.windows(6).any(|part| part == b" HTTP/");
    match lines {
        [first] => has_version(first),
        [first, second, ..] => {
            let names_host = second.get(..5).is_some_and(|name| name.eq_ignore_ascii_case(b"host:"));
            has_version(second) || (names_host && first.contains(&b' '))
        }
        [] => false,
    }
}

/// Drops every CR at the end of a line.
pub fn without_cr(mut line: &[u8]) -> &[u8] {
    while let [head @ .., b'\r'] = line {
        line = head;
    }
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn takes_three_lines_and_leaves_the_rest() {
        let input = b"l\r\nkey\r\r\n10\nr\n";
        assert_eq!(next_frame(input), Frame::Whole { lines: [b"l", b"key", b"10"], used: 12 });
        assert_eq!(next_frame(&input[12..]), Frame::Partial { lines: 1 });
        assert_eq!(next_frame(b""), Frame::Partial { lines: 0 });
    }

    #[test]
    fn a_line_of_256_bytes_passes_and_one_more_does_not() {
        let whole = [b"l\n".as_slice(), &[b'k'; 256], b"\n1\n"].concat();
        assert!(matches!(next_frame(&whole), Frame::Whole { .. }));
        let long = [b"l\n".as_slice(), &[b'k'; 257]].concat();
        assert_eq!(next_frame(&long), Frame::TooLong);
        let cr_counts = [b"l\n".as_slice(), &[b'k'; 256], b"\r\n1\n"].concat();
        assert_eq!(next_frame(&cr_counts), Frame::TooLong);
        assert_eq!(next_frame(&long[..258]), Frame::Partial { lines: 1 });
    }

    #[test]
    fn http_is_known_by_its_first_lines() {
        for input in
            [b"POST / HTTP/1.1\r\n".as_slice(), b"PRI * HTTP/2.0\n", b"\r\nGET / HTTP/1.0\n", b"GET /\nhost: x\n"]
        {
            assert_eq!(next_frame(input), Frame::Http, "{}", input.escape_ascii());
        }
        let key = b"l\nHost:web1\n0\n";
        assert!(matches!(next_frame(key), Frame::Whole { .. }));
    }

    #[test]
    fn only_a_secret_may_be_long() {
        let secret = [b"auth\n_\n".as_slice(), &[b's'; MAX_SECRET], b"\n"].concat();
        assert!(matches!(next_frame(&secret), Frame::Whole { .. }));
        let longer = [b"auth\n_\n".as_slice(), &[b's'; MAX_SECRET + 1]].concat();
        assert_eq!(next_frame(&longer), Frame::TooLong);
        let other = [b"stats\n_\n".as_slice(), &[b's'; 257], b"\n"].concat();
        assert_eq!(next_frame(&other), Frame::TooLong);
    }
}
