//! Subscribers without a library: they shake hands, subscribe, and rest.

use std::io::{Read, Write};
use std::net::TcpStream;

use crate::Failure;

/// A connection that has said all it has to say.
pub struct Dialled(TcpStream);

/// Connects as SUB of ZMTP 3.0, and subscribes to these prefixes.
pub fn dial(endpoint: &str, prefixes: &[Vec<u8>]) -> Result<Dialled, Failure> {
    let mut stream = TcpStream::connect(endpoint.trim_start_matches("tcp://"))?;
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(std::time::Duration::from_secs(20)))?;
    let mut greeting = [0; 64];
    (greeting[0], greeting[9], greeting[10]) = (0xff, 0x7f, 3);
    greeting[12..16].copy_from_slice(b"NULL");
    stream.write_all(&greeting)?;
    stream.read_exact(&mut greeting)?;
    let mut ready = b"\x05READY\x0bSocket-Type\0\0\0\x03SUB".to_vec();
    ready.extend_from_slice(b"\x08Identity\0\0\0\0");
    stream.write_all(&[4, ready.len() as u8])?;
    stream.write_all(&ready)?;
    let mut dialled = Dialled(stream);
    let (flags, _) = dialled.frame()?;
    if flags & 4 == 0 {
        return Err("READY was due".into());
    }
    let mut subscriptions = Vec::new();
    for prefix in prefixes {
        subscriptions.extend_from_slice(&[0, prefix.len() as u8 + 1, 1]);
        subscriptions.extend_from_slice(prefix);
    }
    dialled.0.write_all(&subscriptions)?;
    Ok(dialled)
}

impl Dialled {
    /// A frame of the short form.
    fn frame(&mut self) -> Result<(u8, Vec<u8>), Failure> {
        let mut head = [0; 2];
        self.0.read_exact(&mut head)?;
        let mut body = vec![0; head[1].into()];
        self.0.read_exact(&mut body)?;
        Ok((head[0], body))
    }

    /// Waits for a message.
    pub fn hear(&mut self, expected: &[u8]) -> Result<(), Failure> {
        loop {
            let (flags, body) = self.frame()?;
            if flags & 4 == 0 && body == expected {
                return Ok(());
            }
        }
    }

    /// Passes over what is there.
    pub fn drain(&mut self) -> Result<(), Failure> {
        self.0.set_nonblocking(true)?;
        let mut buffer = [0; 64 * 1024];
        while self.0.read(&mut buffer).is_ok_and(|read| read > 0) {}
        self.0.set_nonblocking(false)?;
        Ok(())
    }
}
