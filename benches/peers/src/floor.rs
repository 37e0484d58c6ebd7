//! The floor: records behind their lengths, in chunks of 64 KiB over bare TCP.

use bytes::{Buf, BufMut, Bytes, BytesMut};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;

use crate::tasks::{Receiver, Sender, Wire};
use crate::{Failure, Pattern};

const CHUNK: usize = 64 * 1024;

pub struct Floor;

pub struct Out {
    chunk: BytesMut,
    writers: Vec<mpsc::UnboundedSender<Bytes>>,
}

pub struct In {
    stream: OwnedReadHalf,
    buffer: BytesMut,
}

pub struct Both(OwnedWriteHalf, In);

async fn pair() -> Result<(TcpStream, TcpStream), Failure> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let near = TcpStream::connect(listener.local_addr()?).await?;
    let (far, _) = listener.accept().await?;
    near.set_nodelay(true)?;
    far.set_nodelay(true)?;
    Ok((near, far))
}

impl Wire for Floor {
    type Sender = Out;
    type Receiver = In;
    type Asker = Both;
    type Answerer = Both;

    async fn connect(_: Pattern, receivers: usize) -> Result<(Out, Vec<In>), Failure> {
        let (mut writers, mut readers) = (Vec::new(), Vec::new());
        for _ in 0..receivers {
            let (near, far) = pair().await?;
            // The other halves stay open as long as these.
            let (stream, keep) = far.into_split();
            let (keep_too, mut near) = near.into_split();
            readers.push(In { stream, buffer: BytesMut::with_capacity(4 * CHUNK) });
            // The window bounds what waits here.
            let (send, mut receive) = mpsc::unbounded_channel::<Bytes>();
            tokio::spawn(async move {
                while let Some(chunk) = receive.recv().await {
                    if near.write_all(&chunk).await.is_err() {
                        break;
                    }
                }
                drop((keep, keep_too));
            });
            writers.push(send);
        }
        Ok((Out { chunk: BytesMut::with_capacity(CHUNK), writers }, readers))
    }

    async fn ask() -> Result<(Both, Both), Failure> {
        let (near, far) = pair().await?;
        let both = |stream: TcpStream| {
            let (stream, write) = stream.into_split();
            Both(write, In { stream, buffer: BytesMut::with_capacity(4 * CHUNK) })
        };
        Ok((both(near), both(far)))
    }
}

impl Sender for Out {
    async fn send(&mut self, payload: Bytes) -> Result<(), Failure> {
        self.chunk.put_u32(payload.len() as u32);
        self.chunk.put_slice(&payload);
        if self.chunk.len() >= CHUNK {
            self.flush().await?;
            // As others that cannot wait.
            tokio::task::yield_now().await;
        }
        Ok(())
    }

    async fn flush(&mut self) -> Result<(), Failure> {
        let chunk = self.chunk.split().freeze();
        self.chunk.reserve(CHUNK);
        for writer in self.writers.iter().filter(|_| !chunk.is_empty()) {
            writer.send(chunk.clone())?;
        }
        Ok(())
    }
}

impl Receiver for In {
    type Message = Bytes;

    async fn recv(&mut self) -> Result<Bytes, Failure> {
        loop {
            if let Some(length) = self.buffer.first_chunk().map(|length| u32::from_be_bytes(*length) as usize)
                && self.buffer.len() >= 4 + length
            {
                self.buffer.advance(4);
                return Ok(self.buffer.split_to(length).freeze());
            }
            self.buffer.reserve(CHUNK);
            if self.stream.read_buf(&mut self.buffer).await? == 0 {
                return Err("the connection ended".into());
            }
        }
    }

    fn payload(message: &Bytes) -> &[u8] {
        message
    }
}

impl Sender for Both {
    async fn send(&mut self, payload: Bytes) -> Result<(), Failure> {
        let mut record = BytesMut::with_capacity(4 + payload.len());
        record.put_u32(payload.len() as u32);
        record.put_slice(&payload);
        Ok(self.0.write_all(&record).await?)
    }
}

impl Receiver for Both {
    type Message = Bytes;

    async fn recv(&mut self) -> Result<Bytes, Failure> {
        self.1.recv().await
    }

    fn payload(message: &Bytes) -> &[u8] {
        message
    }
}
