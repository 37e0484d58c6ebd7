//! libzmq: its own thread for IO, a thread of the application that sends, and one that receives for all sockets, by `zmq_poll`.

use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use zmq::{Context, DONTWAIT, Message, POLLIN, Socket, SocketType};

use crate::window::{CALL, Payloads, Progress, Received, check};
use crate::{Cell, Failure, HWM, LOOPBACK, Pattern};

/// How many messages are taken of one socket before the next has its turn.
const PER_TURN: usize = 256;

pub fn socket(context: &Context, kind: SocketType) -> Result<Socket, Failure> {
    let socket = context.socket(kind)?;
    socket.set_sndhwm(HWM as i32)?;
    socket.set_rcvhwm(HWM as i32)?;
    socket.set_linger(0)?;
    // A lost message is not to hang the run.
    socket.set_rcvtimeo(10_000)?;
    Ok(socket)
}

pub fn bind(socket: &Socket) -> Result<String, Failure> {
    socket.bind(LOOPBACK)?;
    socket.get_last_endpoint()?.map_err(|_| "an address that is no text".into())
}

pub fn throughput(cell: Cell) -> Result<Duration, Failure> {
    let context = Context::new();
    let (out, into) =
        if cell.pattern == Pattern::Push { (zmq::PUSH, zmq::PULL) } else { (zmq::PUB, zmq::SUB) };
    let sender = socket(&context, out)?;
    let endpoint = bind(&sender)?;
    let mut receivers = Vec::new();
    for _ in 0..cell.receivers {
        let receiver = socket(&context, into)?;
        if into == zmq::SUB {
            receiver.set_subscribe(b"")?;
        }
        receiver.connect(&endpoint)?;
        receivers.push(receiver);
    }
    let progress = Progress::new(&cell);
    let receiving = thread::spawn({
        let progress = Arc::clone(&progress);
        move || receive(&receivers, &progress)
    });
    while !progress.is_live() {
        if receiving.is_finished() {
            receiving.join().map_err(|_| "the receiver panicked")??;
            return Err("the receiver ended too early".into());
        }
        sender.send(CALL, 0)?;
        thread::sleep(Duration::from_millis(5));
    }
    let start = Instant::now();
    let mut payloads = Payloads::new(cell.size);
    let waiting = tokio::runtime::Builder::new_current_thread().enable_time().build()?;
    let mut floor = 0;
    for number in 0..cell.messages {
        if !progress.has_room(number, floor) {
            waiting.block_on(async {
                tokio::select! {
                    () = progress.wait_for_room(number, &mut floor) => Ok(()),
                    failure = progress.watch() => Err(failure),
                }
            })?;
        }
        sender.send(payloads.write(number), 0)?;
    }
    receiving.join().map_err(|_| "the receiver panicked")??;
    Ok(start.elapsed())
}

fn receive(sockets: &[Socket], progress: &Arc<Progress>) -> Result<(), Failure> {
    let mut received: Vec<Option<Received>> =
        (0..sockets.len()).map(|index| Some(Received::new(progress, index))).collect();
    let mut left = sockets.len();
    let mut message = Message::new();
    // One socket needs no poll.
    if let ([socket], [Some(received)]) = (sockets, &mut received[..]) {
        loop {
            socket.recv(&mut message, 0).map_err(|error| format!("{}: {error}", progress.stalled()))?;
            if received.take(&message)? {
                return Ok(());
            }
        }
    }
    let mut items: Vec<_> = sockets.iter().map(|socket| socket.as_poll_item(POLLIN)).collect();
    while left > 0 {
        if zmq::poll(&mut items, 10_000)? == 0 {
            return Err(progress.stalled());
        }
        for index in 0..sockets.len() {
            if !items[index].is_readable() {
                continue;
            }
            for _ in 0..PER_TURN {
                match sockets[index].recv(&mut message, DONTWAIT) {
                    Ok(()) => {}
                    Err(zmq::Error::EAGAIN) => break,
                    Err(error) => return Err(error.into()),
                }
                let Some(mine) = &mut received[index] else {
                    return Err("a message behind the last".into());
                };
                if mine.take(&message)? {
                    received[index] = None;
                    left -= 1;
                    break;
                }
            }
        }
    }
    Ok(())
}

/// Round trips, one after the other: a thread asks, another answers.
pub fn round_trips(size: u64, count: u64) -> Result<Vec<Duration>, Failure> {
    let context = Context::new();
    let (ask, answer) = (socket(&context, zmq::REQ)?, socket(&context, zmq::REP)?);
    ask.connect(&bind(&answer)?)?;
    let answering = thread::spawn(move || {
        let mut message = Message::new();
        for _ in 0..count + 100 {
            answer.recv(&mut message, 0)?;
            answer.send(&message[..], 0)?;
        }
        Ok::<_, Failure>(answer)
    });
    let mut payloads = Payloads::new(size);
    let mut times = Vec::with_capacity(count as usize);
    let mut message = Message::new();
    for number in 0..count + 100 {
        let question = payloads.write(number);
        let start = Instant::now();
        ask.send(question, 0)?;
        ask.recv(&mut message, 0)?;
        let time = start.elapsed();
        check(&message, number)?;
        if number >= 100 {
            times.push(time);
        }
    }
    answering.join().map_err(|_| "the answerer panicked")??;
    Ok(times)
}
