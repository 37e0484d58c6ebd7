//! Where a token comes from: a file, the command line, the environment.

use std::path::Path;

use crate::args::TokenArgs;
use crate::failure::Failure;

/// The variable that a token is taken from when no option gives one.
const VARIABLE: &str = "ZINCMQ_TOKEN";

/// The longest token that fits a hello, in bytes.
const MAX_TOKEN: usize = 4096;

/// The token given by option or environment, if any. An empty one is an error: it would let everyone in.
pub(crate) fn token(args: &TokenArgs) -> Result<Option<Vec<u8>>, Failure> {
    let (token, source) = if let Some(path) = &args.token_file {
        (read(path)?, format!("the token file {}", path.display()))
    } else if let Some(token) = &args.token {
        (token.clone().into_bytes(), "--token".to_owned())
    } else if let Some(token) = std::env::var_os(VARIABLE) {
        (token.into_encoded_bytes(), VARIABLE.to_owned())
    } else {
        return Ok(None);
    };
    check(token, &source).map(Some)
}

fn read(path: &Path) -> Result<Vec<u8>, Failure> {
    let mut token = std::fs::read(path)
        .map_err(|error| Failure::new(format!("cannot read the token file {}: {error}", path.display())))?;
    trim_line_break(&mut token);
    Ok(token)
}

fn trim_line_break(token: &mut Vec<u8>) {
    if token.last() == Some(&b'\n') {
        token.pop();
        if token.last() == Some(&b'\r') {
            token.pop();
        }
    }
}

fn check(token: Vec<u8>, source: &str) -> Result<Vec<u8>, Failure> {
    if token.is_empty() {
        return Err(Failure::with_advice(
            format!("{source} is empty"),
            "put a token there, or leave it away (and unset ZINCMQ_TOKEN) where no token is wanted",
        ));
    }
    if token.len() > MAX_TOKEN {
        return Err(Failure::new(format!(
            "{source} has {} bytes, a token has at most {MAX_TOKEN}",
            token.len()
        )));
    }
    Ok(token)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_line_break_at_the_end_is_not_part_of_a_token() {
        for (file, token) in
            [("abc", "abc"), ("abc\n", "abc"), ("abc\r\n", "abc"), ("abc\n\n", "abc\n"), ("a\r", "a\r")]
        {
            let mut bytes = file.as_bytes().to_vec();
            trim_line_break(&mut bytes);
            assert_eq!(bytes, token.as_bytes(), "{file:?}");
        }
    }

    #[test]
    fn an_empty_token_is_refused_rather_than_letting_everyone_in() {
        assert!(check(Vec::new(), "--token").is_err());
        assert!(check(vec![b'x'; MAX_TOKEN + 1], "--token").is_err());
        assert!(check(vec![b'x'; MAX_TOKEN], "--token").is_ok());
    }
}
