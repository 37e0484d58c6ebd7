//! Lines of standard input, read on a thread of their own, since nothing else can wait for them everywhere.

use std::io::{BufRead, BufReader, Read};

use tokio::sync::mpsc;

use crate::failure::Failure;

/// How much is read at once, in bytes (a guess: as much as a pipe holds on Linux).
const CHUNK: usize = 64 * 1024;

/// How many chunks of lines may wait (a guess: enough that reader and sender work side by side).
const CHUNKS: usize = 4;

/// The longest line, in bytes: the largest message that any cluster can be configured to take.
const MAX_LINE: usize = 1 << 30;

/// Lines that were read together, without their line breaks.
pub(crate) type Lines = Vec<Vec<u8>>;

/// Reads standard input to its end. The channel closes behind the last line; an error is the last item.
///
/// The thread stays in its read when the receiver is dropped, until the process ends: a read cannot be called back.
pub(crate) fn lines() -> Result<mpsc::Receiver<Result<Lines, Failure>>, Failure> {
    let (sender, receiver) = mpsc::channel(CHUNKS);
    std::thread::Builder::new()
        .name("stdin".to_owned())
        .spawn(move || {
            let result = split(std::io::stdin().lock(), |lines| sender.blocking_send(Ok(lines)).is_ok());
            if let Err(error) = result {
                // Nobody there: nobody wants to know.
                let _ = sender.blocking_send(Err(error));
            }
        })
        .map_err(|error| Failure::new(format!("cannot read standard input: {error}")))?;
    Ok(receiver)
}

/// Splits what it reads at line breaks, and hands on the lines of each read until `take` wants no more.
fn split(input: impl Read, mut take: impl FnMut(Lines) -> bool) -> Result<(), Failure> {
    let mut input = BufReader::with_capacity(CHUNK, input);
    let mut rest = Vec::new();
    loop {
        let chunk = match input.fill_buf() {
            Ok(chunk) => chunk,
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(Failure::new(format!("cannot read standard input: {error}"))),
        };
        if chunk.is_empty() {
            // The last line may lack its line break.
            if !rest.is_empty() {
                take(vec![rest]);
            }
            return Ok(());
        }
        let length = chunk.len();
        let mut lines = Vec::new();
        let mut pieces = chunk.split(|byte| *byte == b'\n').peekable();
        while let Some(piece) = pieces.next() {
            rest.extend_from_slice(piece);
            if pieces.peek().is_some() {
                lines.push(std::mem::take(&mut rest));
            }
        }
        input.consume(length);
        if !lines.is_empty() && !take(lines) {
            return Ok(());
        }
        if rest.len() > MAX_LINE {
            return Err(Failure::with_advice(
                "a line of standard input has more than a gigabyte, which no cluster takes as one message",
                "see that the input has line breaks",
            ));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all(input: &[u8]) -> Vec<Vec<u8>> {
        let mut all = Vec::new();
        split(input, |lines| {
            all.extend(lines);
            true
        })
        .unwrap();
        all
    }

    #[test]
    fn a_message_is_a_line_whatever_its_bytes() {
        assert_eq!(all(b""), Vec::<Vec<u8>>::new());
        assert_eq!(all(b"a\nb\n"), [b"a", b"b"]);
        assert_eq!(all(b"a\nb"), [b"a", b"b"]);
        assert_eq!(all(b"\n\n"), [b"", b""]);
        assert_eq!(all(b"\xff\0\r\nx"), [&b"\xff\0\r"[..], b"x"]);
    }

    #[test]
    fn lines_longer_than_a_read_stay_whole() {
        let long = vec![b'x'; 3 * CHUNK + 1];
        let input = [&long[..], b"\nshort\n"].concat();
        assert_eq!(all(&input), [&long[..], b"short"]);
    }

    #[test]
    fn reading_ends_when_nobody_takes_the_lines() {
        let mut calls = 0;
        split(std::io::repeat(b'\n'), |_| {
            calls += 1;
            calls < 3
        })
        .unwrap();
        assert_eq!(calls, 3);
    }
}
