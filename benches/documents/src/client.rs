//! A process with clients of one side, which type and watch: what is ordered is the same for both, and as in `node/client.mjs`.

use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};

use crate::Failure;
use crate::edits::{Edit, Patch};
use crate::process::{now, orders, say};

/// A side's client.
pub trait Client: Send + Sync + Sized + 'static {
    /// What all documents of a process share, where they share something.
    type Connection: Send;
    fn connect(address: &str) -> impl Future<Output = Result<Self::Connection, Failure>> + Send;
    /// Opens a document; when this returns, it is there.
    fn open(connection: &Self::Connection, name: &str) -> impl Future<Output = Result<Self, Failure>> + Send;
    /// Makes one edit.
    fn edit(&self, patches: &[Patch]) -> impl Future<Output = Result<(), Failure>> + Send;
    /// What others do to the document, from the opening on; to be called once.
    fn seen(&self) -> Box<dyn Seen>;
    fn text(&self) -> String;
    fn length(&self) -> usize;
}

#[async_trait::async_trait]
pub trait Seen: Send {
    /// How many edits have come since the last call.
    async fn next(&mut self) -> Result<usize, Failure>;
}

fn is_right<C: Client>(client: &C, order: &Value) -> Result<bool, Failure> {
    Ok(client.text() == std::fs::read_to_string(text(order, "text")?)?)
}

fn text<'a>(order: &'a Value, name: &str) -> Result<&'a str, Failure> {
    order[name].as_str().ok_or_else(|| format!("no {name}").into())
}

fn number(order: &Value, name: &str) -> Result<usize, Failure> {
    order[name].as_u64().map(|number| number as usize).ok_or_else(|| format!("no {name}").into())
}

async fn watch(mut seen: Box<dyn Seen>, edits: usize, timed: bool) -> Result<(), Failure> {
    let (mut count, mut times) = (0, Vec::new());
    while count < edits {
        let more = seen.next().await?;
        if timed {
            times.extend(std::iter::repeat_n(now(), more));
        }
        count += more;
    }
    say(&json!({ "event": "seen", "at": now(), "times": times }));
    Ok(())
}

async fn type_in<C: Client>(client: &C, edits: &[Edit], rate: usize) -> Result<Vec<u64>, Failure> {
    let (start, mut times) = (tokio::time::Instant::now(), Vec::new());
    for (edit, number) in edits.iter().zip(0_u32..) {
        if rate > 0 {
            tokio::time::sleep_until(start + Duration::from_secs(1) / rate as u32 * number).await;
            times.push(now());
        }
        client.edit(edit).await?;
    }
    Ok(times)
}

/// Follows orders until there are none any more.
pub async fn play<C: Client>() -> Result<(), Failure> {
    let mut orders = orders();
    let mut connection: Option<C::Connection> = None;
    let mut clients: Vec<Arc<C>> = Vec::new();
    while let Some(order) = orders.recv().await {
        match text(&order, "order")? {
            "open" => {
                let (edits, timed) = (number(&order, "edits")?, order["timed"] == true);
                for name in order["names"].as_array().ok_or("no names")? {
                    for _ in 0..number(&order, "times")? {
                        let name = name.as_str().ok_or("no name")?;
                        // Those who watch one document are clients of their own.
                        if connection.is_none() || number(&order, "times")? > 1 {
                            connection = Some(C::connect(text(&order, "address")?).await?);
                        }
                        let client = C::open(connection.as_ref().ok_or("not connected")?, name).await?;
                        if edits > 0 {
                            let seen = client.seen();
                            tokio::spawn(async move {
                                if let Err(error) = watch(seen, edits, timed).await {
                                    eprintln!("error: {error}");
                                    std::process::exit(1);
                                }
                            });
                        }
                        clients.push(Arc::new(client));
                    }
                }
                say(&json!({ "event": "open" }));
            }
            "type" => {
                let edits: Vec<Edit> = serde_json::from_reader(std::io::BufReader::new(
                    std::fs::File::open(text(&order, "edits")?)?,
                ))?;
                let edits = edits.get(..number(&order, "count")?).ok_or("too few edits")?.to_vec();
                let rate = number(&order, "rate")?;
                let typists = clients.clone();
                // As in a service: on a worker.
                let typed = tokio::spawn(async move {
                    let (start, mut times) = (now(), Vec::new());
                    for client in typists {
                        times.extend(type_in(&*client, &edits, rate).await?);
                    }
                    Ok::<_, Failure>((start, times))
                });
                let (start, times) = typed.await??;
                say(&json!({ "event": "typed", "start": start, "times": times }));
            }
            "join" => {
                let start = now();
                let connection = C::connect(text(&order, "address")?).await?;
                let client = C::open(&connection, text(&order, "name")?).await?;
                let length = client.length();
                let took = now() - start;
                let right = is_right(&client, &order)?;
                say(&json!({ "event": "joined", "took": took, "length": length, "right": right }));
            }
            "check" => {
                let mut right = true;
                for client in &clients {
                    right &= is_right(&**client, &order)?;
                }
                say(&json!({ "event": "checked", "right": right }));
            }
            "tidy" => say(&json!({ "event": "tidy" })),
            other => return Err(format!("no order is called {other}").into()),
        }
    }
    Ok(())
}
