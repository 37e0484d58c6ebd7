//! Clients of y-websocket in Rust: a yrs document, and its protocol over a WebSocket.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use futures::{SinkExt, StreamExt};
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio_tungstenite::tungstenite::{Bytes, Message};
use yrs::sync::{Message as Word, SyncMessage};
use yrs::updates::decoder::Decode;
use yrs::updates::encoder::Encode;
use yrs::{Doc, GetString, OffsetKind, Options, ReadTxn, StateVector, Text, TextRef, Transact, Update};

use crate::Failure;
use crate::client::{Client, Seen};
use crate::edits::Patch;

/// How many edits may wait for the socket: as many as documents of this crate let wait for their places.
const MOST_WAITING: usize = 4_096;

/// A document to type in, with positions as Yjs counts them.
pub fn document() -> (Doc, TextRef) {
    let doc = Doc::with_options(Options { offset_kind: OffsetKind::Utf16, ..Options::default() });
    let text = doc.get_or_insert_text("text");
    (doc, text)
}

/// Makes an edit, and says what others are to apply.
pub fn edit(doc: &Doc, text: &TextRef, patches: &[Patch]) -> Vec<u8> {
    let mut txn = doc.transact_mut();
    for Patch(position, deleted, inserted) in patches {
        if *deleted > 0 {
            text.remove_range(&mut txn, *position as u32, *deleted as u32);
        }
        if !inserted.is_empty() {
            text.insert(&mut txn, *position as u32, inserted);
        }
    }
    txn.encode_update_v1()
}

pub struct Socket {
    doc: Arc<Mutex<(Doc, TextRef)>>,
    outgoing: mpsc::Sender<Vec<u8>>,
    seen: Mutex<Option<mpsc::UnboundedReceiver<usize>>>,
    reader: tokio::task::JoinHandle<()>,
}

impl Drop for Socket {
    fn drop(&mut self) {
        self.reader.abort();
    }
}

struct Counts(mpsc::UnboundedReceiver<usize>);

#[async_trait::async_trait]
impl Seen for Counts {
    async fn next(&mut self) -> Result<usize, Failure> {
        self.0.recv().await.ok_or_else(|| "the connection has ended".into())
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn apply(doc: &Mutex<(Doc, TextRef)>, update: &[u8]) -> Result<(), Failure> {
    Ok(lock(doc).0.transact_mut().apply_update(Update::decode_v1(update)?)?)
}

impl Client for Socket {
    type Connection = String;

    async fn connect(address: &str) -> Result<String, Failure> {
        Ok(address.to_owned())
    }

    async fn open(address: &String, name: &str) -> Result<Self, Failure> {
        let stream = TcpStream::connect(address.trim_start_matches("ws://")).await?;
        stream.set_nodelay(true)?;
        let (socket, _) = tokio_tungstenite::client_async(format!("{address}/{name}"), stream).await?;
        let (mut sink, mut stream) = socket.split();
        let (outgoing, mut queue) = mpsc::channel::<Vec<u8>>(MOST_WAITING);
        tokio::spawn(async move {
            // What is there goes out together.
            while let Some(first) = queue.recv().await {
                let mut next = Some(first);
                while let Some(message) = next {
                    if sink.feed(Message::Binary(Bytes::from(message))).await.is_err() {
                        return;
                    }
                    next = queue.try_recv().ok();
                }
                if sink.flush().await.is_err() {
                    return;
                }
            }
        });
        let question = Word::Sync(SyncMessage::SyncStep1(StateVector::default()));
        outgoing.send(question.encode_v1()).await?;
        let doc = Arc::new(Mutex::new(document()));
        let (counts, seen) = mpsc::unbounded_channel();
        let (opened, is_open) = tokio::sync::oneshot::channel();
        let (shared, answers) = (Arc::clone(&doc), outgoing.clone());
        let reader = tokio::spawn(async move {
            let mut opened = Some(opened);
            while let Some(Ok(message)) = stream.next().await {
                let Message::Binary(bytes) = message else { continue };
                let done = match Word::decode_v1(&bytes) {
                    Ok(Word::Sync(SyncMessage::SyncStep1(theirs))) => {
                        let update = lock(&shared).0.transact().encode_state_as_update_v1(&theirs);
                        let answer = Word::Sync(SyncMessage::SyncStep2(update)).encode_v1();
                        answers.send(answer).await.map_err(Failure::from)
                    }
                    Ok(Word::Sync(SyncMessage::SyncStep2(update))) => {
                        let applied = apply(&shared, &update);
                        // Whoever waited for it may have gone.
                        opened.take().map(|opened| opened.send(()));
                        applied
                    }
                    // What is sent comes back, too, and changes nothing. Nobody counts that.
                    Ok(Word::Sync(SyncMessage::Update(update))) => {
                        apply(&shared, &update).map(|()| _ = counts.send(1))
                    }
                    Ok(_) => Ok(()),
                    Err(error) => Err(error.into()),
                };
                if let Err(error) = done {
                    eprintln!("error: {error}");
                    return;
                }
            }
        });
        is_open.await?;
        Ok(Self { doc, outgoing, seen: Mutex::new(Some(seen)), reader })
    }

    async fn edit(&self, patches: &[Patch]) -> Result<(), Failure> {
        let update = {
            let guard = lock(&self.doc);
            edit(&guard.0, &guard.1, patches)
        };
        Ok(self.outgoing.send(Word::Sync(SyncMessage::Update(update)).encode_v1()).await?)
    }

    fn seen(&self) -> Box<dyn Seen> {
        let (_, nothing) = mpsc::unbounded_channel();
        Box::new(Counts(lock(&self.seen).take().unwrap_or(nothing)))
    }

    fn text(&self) -> String {
        let guard = lock(&self.doc);
        let txn = guard.0.transact();
        guard.1.get_string(&txn)
    }

    fn length(&self) -> usize {
        let guard = lock(&self.doc);
        let txn = guard.0.transact();
        guard.1.len(&txn) as usize
    }
}
