//! The authenticator's calls: a task for each hello that the machine asks about, ended when the
//! machine cancels it.

use std::collections::BTreeMap;
use std::fmt;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;

use futures::FutureExt;
use tokio::task::{AbortHandle, JoinError, JoinSet};

use crate::id::SessionToken;
use crate::proto::host::{AuthQuery, Verdict};

use super::super::auth::{Authenticator, JoinRequest};

/// The calls under way. The machine bounds their number and their time.
pub(super) struct AuthTasks {
    authenticator: Arc<dyn Authenticator>,
    tasks: JoinSet<(AuthQuery, Verdict)>,
    running: BTreeMap<AuthQuery, AbortHandle>,
}

impl fmt::Debug for AuthTasks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AuthTasks").field("running", &self.running.len()).finish_non_exhaustive()
    }
}

impl AuthTasks {
    pub(super) fn new(authenticator: Arc<dyn Authenticator>) -> Self {
        Self { authenticator, tasks: JoinSet::new(), running: BTreeMap::new() }
    }

    pub(super) fn start(&mut self, query: AuthQuery, request: JoinRequest) {
        let authenticator = Arc::clone(&self.authenticator);
        let task = self.tasks.spawn(async move {
            let decision = AssertUnwindSafe(async { authenticator.authenticate(&request).await });
            let verdict = match decision.catch_unwind().await {
                Ok(Ok(role)) => fresh_session()
                    .map(|session| Verdict::Admit { role, session })
                    .ok_or_else(|| "the host has no random numbers".to_owned()),
                Ok(Err(reason)) => Err(reason),
                Err(_) => Err("the authenticator panicked".to_owned()),
            };
            (query, verdict.unwrap_or_else(|reason| Verdict::Refuse { reason }))
        });
        self.running.insert(query, task);
    }

    pub(super) fn cancel(&mut self, query: AuthQuery) {
        if let Some(task) = self.running.remove(&query) {
            task.abort();
        }
    }

    /// The next verdict. Cancel safe.
    pub(super) async fn next(&mut self) -> (AuthQuery, Verdict) {
        loop {
            match self.tasks.join_next().await {
                Some(result) => {
                    if let Some(answered) = self.on_end(result) {
                        return answered;
                    }
                }
                None => std::future::pending().await,
            }
        }
    }

    /// A verdict that is there already.
    pub(super) fn try_next(&mut self) -> Option<(AuthQuery, Verdict)> {
        loop {
            let result = self.tasks.try_join_next()?;
            if let Some(answered) = self.on_end(result) {
                return Some(answered);
            }
        }
    }

    /// `None` for a task that was cancelled.
    fn on_end(&mut self, result: Result<(AuthQuery, Verdict), JoinError>) -> Option<(AuthQuery, Verdict)> {
        let (query, verdict) = result.ok()?;
        self.running.remove(&query);
        Some((query, verdict))
    }
}

/// An unguessable session token from the operating system's generator; `None` if that fails.
fn fresh_session() -> Option<SessionToken> {
    loop {
        let mut bytes = [0; SessionToken::LENGTH];
        getrandom::fill(&mut bytes).ok()?;
        if let Some(token) = SessionToken::from_bytes(bytes) {
            return Some(token);
        }
    }
}
