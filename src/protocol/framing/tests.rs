use super::{Framed, Framer};

/// The longest request in these tests.
const LIMIT: usize = 10;

const TOO_LONG: &str = "too_long: Request longer than 10 bytes";

/// What comes out of these chunks: `VERB|ARGUMENT`, or the code and the message of what is none.
fn framed(chunks: &[&[u8]]) -> Vec<String> {
    let mut framer = Framer::new(LIMIT);
    let mut found = Vec::new();
    let ends = (0..chunks.len()).map(|at| (chunks[at], false));
    for (chunk, at_end) in ends.chain([(&b""[..], true)]) {
        framer.push(chunk);
        while let Some(framed) = framer.next(at_end) {
            match framed {
                Framed::Request(request) => {
                    let (verb, argument) = request.split();
                    found.push(format!("{verb}|{argument}"));
                }
                Framed::Rejected(failure) => {
                    found.push(format!("{}: {}", failure.code.name(), failure.message));
                }
                Framed::Broken(failure) => {
                    found.push(format!("broken: {}", failure.message));
                    return found;
                }
            }
        }
    }
    found
}

/// Expects this of each input, however it is cut.
fn expect(rows: &[(&[u8], &[&str])]) {
    for (input, expected) in rows {
        let shown = input.escape_ascii();
        assert_eq!(framed(&[input]), *expected, "{shown}");
        for at in 0..=input.len() {
            let (start, end) = input.split_at(at);
            assert_eq!(framed(&[start, end]), *expected, "{shown}, cut at {at}");
        }
        let bytes: Vec<&[u8]> = input.chunks(1).collect();
        assert_eq!(framed(&bytes), *expected, "{shown}, byte by byte");
    }
}

#[test]
fn lines() {
    expect(&[
        (b"", &[]),
        (b"\n\r\n\n\r", &[]),
        (b"PING\n", &["PING|"]),
        (b"PING\r\n\nINFO", &["PING|", "INFO|"]),
        (b"PING\r", &["PING|"]),
        (b"A  \t b \n", &["A|b "]),
        (b"A \n", &["A|"]),
        (b" A\n", &["|A"]),
        (b"\rA\n", &["\rA|"]),
        (b"A\rB\r\r\n", &["A\rB\r|"]),
        (b"A\0 \0\n", &["A\0|\0"]),
        ("A \u{e9}\u{1f600}\n".as_bytes(), &["A|\u{e9}\u{1f600}"]),
    ]);
}

#[test]
fn lines_as_long_as_the_limit_and_longer() {
    expect(&[
        (b"abcdefghij\nA\n", &["abcdefghij|", "A|"]),
        (b"abcdefghij\r\nA\n", &["abcdefghij|", "A|"]),
        (b"abcdefghij\r", &["abcdefghij|"]),
        (b"abcdefghijk\nA\n", &[TOO_LONG, "A|"]),
        (b"abcdefghijk\r\nA\n", &[TOO_LONG, "A|"]),
        (b"abcdefghij\rk\nA\n", &[TOO_LONG, "A|"]),
        (b"abcdefghijklmnopqrstuvwxyz", &[TOO_LONG]),
        // A line that begins with blanks is as long as it is.
        (b"          A\n", &[TOO_LONG]),
    ]);
}

#[test]
fn netstrings() {
    expect(&[
        (b"4:PING,", &["PING|"]),
        (b"4:PING,\n4:INFO,PING\n", &["PING|", "INFO|", "PING|"]),
        (b"4:A  b,", &["A| b"]),
        (b"5:A b\n,,", &["A|b\n,"]),
        (b"1:,,", &[",|"]),
        (b"0:,A\n", &["bad_request: Empty request", "A|"]),
        (b"10:abcdefghij,A\n", &["abcdefghij|", "A|"]),
        (b"11:abcdefghijk,A\n", &[TOO_LONG, "A|"]),
        (b"11:abcdefghi", &[TOO_LONG]),
        (b"9999999999:a", &[TOO_LONG]),
        (
            "3:A \u{e9}".as_bytes(),
            &[&malformed("no \",\" follows its last byte")],
        ),
        ("4:A \u{e9},".as_bytes(), &["A|\u{e9}"]),
    ]);
}

fn malformed(reason: &str) -> String {
    format!("broken: Malformed netstring: {reason}; expected LEN:BYTES,")
}

#[test]
fn netstrings_behind_which_nothing_can_be_made_out() {
    let rows: [(&[u8], &str); 10] = [
        (b"4:PING\n", "no \",\" follows its last byte"),
        (b"4:PINGPONG,", "no \",\" follows its last byte"),
        (b"4:PIN", "it ends before its last byte"),
        (b"4:PING", "it ends before its last byte"),
        (b"4", "it ends before its \":\""),
        (b"4 :PING,", "no \":\" follows its length"),
        (b"04:PING,", "its length starts with 0"),
        (b"00:,", "its length starts with 0"),
        (b"12345678901:", "its length has more than 10 digits"),
        (
            b"99999999999999999999",
            "its length has more than 10 digits",
        ),
    ];
    for (input, reason) in rows {
        expect(&[(input, &[&malformed(reason)])]);
    }
    let reason = malformed("no \",\" follows its last byte");
    expect(&[(b"11:abcdefghijkl,A\n", &[TOO_LONG, &reason])]);
}

#[test]
fn requests_that_are_not_utf_8() {
    let wrong = |byte: &str, at: usize| {
        format!("bad_request: Request is not valid UTF-8: byte 0x{byte} at offset {at}")
    };
    let rows: [(&[u8], String); 6] = [
        (b"\xff\nA\n", wrong("ff", 0)),
        (b"INFER \xc3\nA\n", wrong("c3", 6)),
        (b"INFER \xc3\r\nA\n", wrong("c3", 6)),
        // A surrogate, a longer form than needed, and a code point that is none.
        (b"5:A \xed\xa0\x80,A\n", wrong("ed", 2)),
        (b"4:A \xc0\x80,A\n", wrong("c0", 2)),
        (b"6:A \xf4\x90\x80\x80,A\n", wrong("f4", 2)),
    ];
    for (input, reason) in rows {
        expect(&[(input, &[&reason, "A|"])]);
    }
}

#[test]
fn what_was_given_out_takes_no_memory() {
    let mut framer = Framer::new(1 << 20);
    framer.push(&[b'a'; 1 << 20]);
    assert!(framer.next(false).is_none());
    framer.push(b"\n");
    assert!(framer.next(false).is_some());
    framer.push(b"");
    assert_eq!(framer.buffer.capacity(), 0);
}
