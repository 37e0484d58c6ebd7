//! Keeps the documents of a cluster: at its host, or on another node as well.

mod asking;
mod driver;
mod place;
mod rights;
mod storing;
#[cfg(test)]
mod tests;
mod working;

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::sync::mpsc;

use crate::endpoint::Endpoint;
use crate::id::EndpointId;
use crate::message::Position;
use crate::role::Role;
use crate::sync::lock;

use super::fold::Folded;
use super::handle::random;
use super::keeper::{self, Config, KnownType, Limits, Types};
use super::store::{Store, StoreError};
use super::{Access, Document};
use asking::Asking;
use driver::{Shared, meanwhile, stream_options};
use place::{Life, Place};
use rights::Veto;
use storing::Storing;

/// An answer of `access` counts at least for so long (a guess: far above what a member takes to send something again).
const SHORTEST_ACCESS: Duration = Duration::from_secs(1);

type AccessFn = Arc<dyn Fn(EndpointId, &str) -> Access + Send + Sync>;

/// A document that is kept.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct DocumentInfo {
    /// Its name.
    pub name: String,
    /// Its type: [`Document::KIND`].
    pub kind: String,
    /// How much is kept of it, in bytes: a snapshot and the updates since.
    pub size: u64,
}

/// What a keeper has counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct KeeperStats {
    /// Documents that are kept.
    pub documents: usize,
    /// Documents that are being asked for, by a keeper that is not the host's.
    pub missing: usize,
    /// Malformed messages on documents' topics, passed over.
    pub malformed: u64,
    /// Updates of documents that are not kept: there are too many of them, or they are too large.
    pub dropped: u64,
    /// Documents that were kept, and are not any more: too large, or the largest where all together were, or such that their type cannot read them.
    pub given_up: u64,
    /// What all documents take in memory, in bytes, about: what [`KeeperBuilder::max_total`] bounds.
    pub bytes: u64,
    /// What the keeper did not send: it was asked faster than it can answer, or the cluster's messages are too short for it. Whoever asked asks again.
    pub unsent: u64,
    /// Commits to the store.
    pub commits: u64,
}

/// Why a keeper could not start, or keeps no more.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum KeeperError {
    /// The store does not do what it should.
    #[error("{0}")]
    Store(String),
    /// What is stored of a document makes no sense. The store was left as it is.
    #[error("the stored document {name:?} cannot be read: {reason}")]
    Malformed {
        /// The document's name.
        name: String,
        /// What is wrong with it.
        reason: String,
    },
    /// The host's keeper fell behind the order, and has missed updates: start a new one, which gets them from those that have the documents open.
    #[error("the keeper fell too far behind the order of the cluster")]
    Overrun,
    /// The endpoint cannot subscribe to documents.
    #[error("{0}")]
    Subscribe(String),
    /// A host has one keeper at a time, and there is one: close it first.
    #[error("there is a keeper at this host already: close it first")]
    Occupied,
    /// A task of the keeper panicked, which is a mistake of this crate: start a new one.
    #[error("the keeper panicked")]
    Panicked,
    /// The endpoint has ended, or the keeper was closed.
    #[error("the keeper was closed, or its endpoint has ended")]
    Closed,
}

impl From<StoreError> for KeeperError {
    fn from(error: StoreError) -> Self {
        Self::Store(error.to_string())
    }
}

/// Sets up a [`Keeper`].
#[must_use]
pub struct KeeperBuilder {
    store: Option<Box<dyn Store>>,
    /// `None`: everybody may change everything.
    access: Option<AccessFn>,
    access_lasts: Duration,
    types: Types,
    limits: Limits,
}

impl fmt::Debug for KeeperBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KeeperBuilder").field("types", &self.types.keys()).finish_non_exhaustive()
    }
}

impl KeeperBuilder {
    /// Where documents are kept so that they survive the host. Default: nowhere.
    pub fn store(mut self, store: impl Store) -> Self {
        self.store = Some(Box::new(store));
        self
    }

    /// Who may do what with which documents. Default: everybody may change everything.
    ///
    /// **At the host it is enforced**: what a member may not say about a document is not ordered, and so reaches and concerns nobody, whatever program the member runs. [`Access::Write`] is
    /// needed to change it, `Read` for [presence](super::DocumentHandle::set_presence); everybody may ask, and is answered as it says here. While this keeper is there, nobody without `Write` may give the
    /// document to others either. Who says more is told ([`ReceiptError::Refused`](crate::ReceiptError::Refused)), counted ([`Stats::refused`](crate::Stats::refused)) and reported
    /// ([`Event::Forbidden`](crate::Event::Forbidden)). An open document whose updates are refused so asks again, and then says what it may: what was changed there in vain is told as
    /// [`Refused`](super::DocumentEvent::Refused), and it is read-only from then on, or has [failed](super::DocumentError::Refused).
    ///
    /// **It keeps nothing secret.** What is broadcast reaches all who can connect, and that `Denied` may not read a document holds for programs that keep to it: others subscribe to its
    /// topics, and read along what is changed. Keep what not everybody may read on a host, a cluster, of its own, which admits who may.
    ///
    /// Called when an endpoint asks this keeper for a document, and at a host before something of a member's is ordered; each answer counts for [a while](Self::access_lasts), or until
    /// [`access_changed`](Keeper::access_changed) is called. It may block, to look something up say: it is called on threads for that, up to 16 at once before something is ordered and up to 4 of them about one member, and up to 8 more,
    /// 2 of them for one, where documents are asked for: so that what takes long about one keeps no other waiting. Whoever asks for a document waits for it; and where the host has to know, so do the member's messages, those about
    /// other things, too. What it has not said within 5 s the host takes for a denial, as it does a panic. It may call this keeper: who opens a document gets it as it was when it asked.
    ///
    /// A call that never returns keeps its thread: after four about one member nothing more is found out about that one, after sixteen about anybody, and what is not known is denied; who opens a document then waits.
    ///
    /// It is told the member's id, which is as good as whoever admits members makes it: without an [authenticator](crate::Authenticator) that checks which id belongs to whom, a member takes any that
    /// is not in use, and what that one may do with it.
    ///
    /// It holds from when [`start`](Self::start) is called, whether that succeeds or not, until the keeper is closed or another one has started there. Where the keeper ends by itself, or never
    /// started, it is asked as before: nothing becomes allowed because something has failed.
    ///
    /// Not asked: about the application of the keeper's own endpoint, which may do everything, nor about what was ordered before this keeper started. A keeper that is not at the host goes by it in its answers alone.
    /// Who may read in the whole cluster and write nowhere the [authenticator](crate::Authenticator) says by its role.
    pub fn access(mut self, access: impl Fn(EndpointId, &str) -> Access + Send + Sync + 'static) -> Self {
        self.access = Some(Arc::new(access));
        self
    }

    /// For how long an answer of [`access`](Self::access) counts at the host: nothing is ordered by one that is older. At least 1 s. Default: 30 s (a guess). Shorter costs as many more calls, for each member and
    /// each document that it changes.
    pub fn access_lasts(mut self, time: Duration) -> Self {
        // What waited for an answer is to come again while that counts.
        self.access_lasts = time.max(SHORTEST_ACCESS);
        self
    }

    /// Lets the keeper fold the updates of documents of this type into them. Of types it does not know it keeps all updates, and whoever opens a document applies
    /// all of them; and one that is not the host's cannot bring such a document back to a cluster that has lost it. The types of this crate are known.
    pub fn knows<D: Document>(mut self) -> Self {
        self.types.insert(D::KIND.to_owned(), KnownType::of::<D>());
        self
    }

    /// How much may be kept of a document, in bytes. One that is larger is given to nobody any more; others are not concerned. Default: 64 MiB (a guess).
    pub fn max_document(mut self, bytes: usize) -> Self {
        self.limits.document = bytes;
        self
    }

    /// How many documents may be kept. Default: 10,000 (a guess).
    pub fn max_documents(mut self, documents: usize) -> Self {
        self.limits.documents = documents;
        self
    }

    /// How much may be kept of all documents together, in bytes, with what is remembered of those that change them: about what the keeper takes in memory, but for
    /// what is on its way to somebody. A document that does not fit beside the others is not begun, which is counted ([`KeeperStats::dropped`]), and who opens a new one where there
    /// is no room is told so ([`DocumentError::Refused`](super::DocumentError::Refused)). Where those that there are grow beyond it, the largest of them is given up: whoever has it open is told so in the
    /// same way, and it is counted ([`KeeperStats::given_up`]). What is stored of it stays as it is. It is the largest so that the others can go on: many that grow by a little would be given up for
    /// the same room. Default: 1 GiB (a guess).
    pub fn max_total(mut self, bytes: usize) -> Self {
        self.limits.bytes = bytes;
        self
    }

    /// Loads what is stored, and starts.
    ///
    /// At a host there is one keeper. Where there is one already that is about to end, this waits for that.
    ///
    /// At a host it is to be called right after that was bound: what is changed before, the keeper has not seen. It asks those that have documents open by then, and
    /// other keepers, to give them, so that what they know is not lost; of an ordered document that is the state of one of them, and what each of the others
    /// has done itself. What was changed before by documents that are closed by now, and is in no open one, is gone.
    ///
    /// At a client it is to be called when one likes. It asks the host's keeper for everything: see [`caught_up`](Keeper::caught_up).
    ///
    /// # Errors
    /// [`KeeperError`].
    pub async fn start<E: Endpoint + ?Sized>(self, endpoint: &E) -> Result<Keeper, KeeperError> {
        let (me, sender) = (endpoint.id(), endpoint.sender());
        let is_hosts = endpoint.role() == Role::Host;
        let life = Life::default();
        let ends = life.ends_with();
        if is_hosts {
            endpoint.extensions().get_or_insert_with(Place::default).take(&life).await?;
        }
        // First of all: nothing is to be missed.
        let mut messages = sender.messages_with(&stream_options(me, is_hosts));
        // Nor is anything to come from here on that may not, whatever comes of the rest.
        let restricts = self.access.is_some();
        let (results, done) = mpsc::unbounded_channel();
        let (mut veto, mut asking) = (None, None);
        if let Some(access) = self.access {
            let (questions, asked) = mpsc::unbounded_channel();
            let (asks, hosts) = mpsc::unbounded_channel();
            let (new, told) = Veto::new();
            veto = is_hosts.then(|| Arc::new(new));
            // It answers from when the host asks, whether or not this goes on.
            tokio::spawn(Asking::new(access, veto.clone(), results.clone()).run(hosts, asked));
            asking = Some(questions);
            if let Some(veto) = &veto {
                veto.start(&sender, self.access_lasts, asks, told).await;
            }
        }
        let config = Config {
            me,
            is_hosts,
            seed: random(),
            restricts,
            read_only: !endpoint.role().may_send(),
            limits: self.limits,
            max_message: sender.max_message(),
            stores: self.store.is_some(),
            types: self.types,
            #[cfg(any(test, feature = "test-utils"))]
            mutant: None,
        };
        let mut machine = keeper::Keeper::new(config);
        let (mut storing, mut early) = (None, Vec::new());
        if let Some(store) = self.store {
            let loading = Storing::start(store, machine);
            let loaded = if is_hosts {
                let (loaded, batches) = meanwhile(&mut messages, loading).await?;
                early = batches;
                loaded
            } else {
                let loaded = loading.await;
                // Everything is asked for from here on.
                messages = sender.messages_with(&stream_options(me, is_hosts));
                loaded
            };
            let (store, loaded) = loaded?;
            (storing, machine) = (Some(store), loaded);
        }
        if is_hosts {
            // A clock that was set back must not put what is changed now before what is stored.
            sender.rise_above(machine.last_epoch().unwrap_or_default()).await;
            // Whoever has opened a document in this life of the host has asked for it, in the order, and the host has counted what it ordered until it heard
            // the above. Where that is nothing there is nobody to ask, and nothing is said.
            machine.begin(endpoint.stats().received > 0);
        }
        let shared = Arc::new(Shared::new(me, is_hosts, machine, veto, life));
        driver::start(&shared, (messages, early), sender.clone(), storing, asking, (results, done), ends);
        let keeper = Keeper { guard: Arc::new(Guard(shared)) };
        if is_hosts && !restricts {
            // One before it may have left its own.
            sender.set_guard(None).await;
        }
        Ok(keeper)
    }
}

/// Keeps the documents of a cluster: whoever opens one gets it from here, and with a store they survive the host.
///
/// ```no_run
/// use zincmq::document::Keeper;
/// use zincmq::prelude::*;
///
/// # async fn example() -> Result<(), Box<dyn std::error::Error>> {
/// let host = Host::builder().bind("tcp://127.0.0.1:5555").await?;
/// let keeper = Keeper::builder().start(&host).await?;
/// # let _ = keeper;
/// # Ok(())
/// # }
/// ```
///
/// The host's is the one that is asked, and that says up to where documents are stored. Any other endpoint can have one as well, with a store or without:
///
/// - It asks the host's keeper for all documents, a few at a time, and from then on takes in what is changed, as that one does. After a loss it asks again. What a document is there is what it is here;
///   what this one had of it before is given up, but for what a commutative document of a [known](KeeperBuilder::knows) type lacks there, which it is given.
/// - Where the host's keeper does not have a document, after the host came back without its store say, it gets it from here, as from those that have it open: of an ordered
///   document, the first offer counts. So a keeper that was away for long may bring back what is old.
/// - Where no keeper is at the host, or it does not answer, who opens a document may get it from here. The [access](KeeperBuilder::access) asked then is this keeper's own.
/// - What the host's keeper does not give it, or gives up, it keeps as it was, in memory until it ends and in its store, and gives it to nobody.
/// - At a read-only member it only keeps: it gives nothing to anybody.
/// - Its store can be the store of the keeper of a new host, which goes on from there.
///
/// ```no_run
/// use zincmq::document::Keeper;
/// use zincmq::prelude::*;
///
/// # async fn example() -> Result<(), Box<dyn std::error::Error>> {
/// let client = Client::builder().subscribe_to_nothing().join("tcp://127.0.0.1:5555").await?;
/// let keeper = Keeper::builder().start(&client).await?;
/// keeper.caught_up().await?;
/// println!("{} documents", keeper.documents().len());
/// # Ok(())
/// # }
/// ```
///
/// It ends with the last of its clones, with [`close`](Self::close), or with its endpoint.
#[derive(Debug, Clone)]
pub struct Keeper {
    guard: Arc<Guard>,
}

#[derive(Debug)]
struct Guard(Arc<Shared>);

impl Drop for Guard {
    fn drop(&mut self) {
        self.0.life.close();
    }
}

impl Keeper {
    /// One without a store that knows the types of this crate.
    pub fn builder() -> KeeperBuilder {
        let builder = KeeperBuilder {
            store: None,
            access: None,
            access_lasts: Duration::from_secs(30),
            types: Types::new(),
            limits: Limits { document: 64 << 20, documents: 10_000, bytes: 1 << 30 },
        };
        #[cfg(feature = "crdt")]
        let builder = builder
            .knows::<super::crdt::Text>()
            .knows::<super::crdt::Map>()
            .knows::<super::crdt::Array>()
            .knows::<super::crdt::Sheet>()
            .knows::<super::crdt::Canvas>();
        builder
    }

    /// The documents there are, by name.
    #[must_use]
    pub fn documents(&self) -> Vec<DocumentInfo> {
        let machine = lock(&self.guard.0.machine);
        let info = |(name, kind, size): (&str, &str, usize)| DocumentInfo {
            name: name.to_owned(),
            kind: kind.to_owned(),
            size: size as u64,
        };
        machine.documents().map(info).collect()
    }

    /// A document as it is now, and up to where that is; `None` where there is none of that name.
    ///
    /// # Errors
    /// [`KeeperError::Malformed`] when it is of another type, or makes no sense to it.
    pub fn get<D: Document>(&self, name: &str) -> Result<Option<(D, Option<Position>)>, KeeperError> {
        let Some(state) = lock(&self.guard.0.machine).state(name) else { return Ok(None) };
        match Folded::<D>::of(&state, None) {
            Ok(folded) => Ok(Some((folded.document, folded.ledger.at))),
            Err(malformed) => {
                Err(KeeperError::Malformed { name: name.to_owned(), reason: malformed.to_string() })
            }
        }
    }

    /// What was counted so far.
    #[must_use]
    pub fn stats(&self) -> KeeperStats {
        let machine = lock(&self.guard.0.machine);
        KeeperStats {
            documents: machine.documents().count(),
            missing: machine.wanted(),
            malformed: machine.malformed(),
            dropped: machine.dropped(),
            given_up: machine.given_up(),
            bytes: machine.bytes() as u64,
            unsent: self.guard.0.unsent.load(Ordering::Relaxed),
            commits: *self.guard.0.commits.borrow(),
        }
    }

    /// Says that [`access`](KeeperBuilder::access) may give other answers than before, about whomever and whatever. From when this returns on, nothing is ordered by an earlier one; and who has a document
    /// open asks for it again, and so learns what it may do. Each of them asks for all of its document: where one has changed, say [which](Self::access_changed_for). At a keeper
    /// that is not the host's this concerns what is being found out just now alone: it asks each time.
    ///
    /// Cancel safe: when cancelled, it comes into force all the same, or not at all.
    pub async fn access_changed(&self) {
        driver::access_changed(&self.guard.0, None).await;
    }

    /// As [`access_changed`](Self::access_changed), about one document.
    pub async fn access_changed_for(&self, name: &str) {
        driver::access_changed(&self.guard.0, Some(name.to_owned())).await;
    }

    /// Waits until the keeper has what the cluster has, as far as anybody has told it: that of the host has from the beginning. Another has not after a loss, until
    /// it has asked for everything again. Where nobody keeps documents at the host, it has what those gave that have them open. Cancel safe.
    ///
    /// # Errors
    /// [`KeeperError`]: it has ended.
    pub async fn caught_up(&self) -> Result<(), KeeperError> {
        let shared = &self.guard.0;
        let mut has = shared.has_caught_up.subscribe();
        tokio::select! {
            biased;
            // The sender lives as long as we do.
            _ = has.wait_for(|has| *has) => Ok(()),
            () = shared.life.closing.cancelled() => Err(self.failed().await),
        }
    }

    /// Waits until the keeper keeps no more, and says why. After an error of the store it goes on in memory; that error is told here all the same. Cancel safe.
    pub async fn failed(&self) -> KeeperError {
        let mut failed = self.guard.0.failed.subscribe();
        match failed.wait_for(Option::is_some).await.as_deref() {
            Ok(Some(error)) => error.clone(),
            _ => KeeperError::Closed,
        }
    }

    /// Ends the keeper, when all that is in order by now is stored, and with it that the host goes by its [`access`](KeeperBuilder::access): that outlives a keeper which ends by itself, since it fell behind
    /// say, until another one has started at the host, with an `access` or without. When the host is to end, too, let it end first: then nothing is in order that is not stored.
    pub async fn close(self) {
        self.guard.0.life.close();
        self.guard.0.life.done.cancelled().await;
    }
}
