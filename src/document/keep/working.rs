//! What takes a keeper time for large documents, folding them and comparing them with what the cluster has, on blocking threads: a few at a time, so that others who
//! have something to do there have room, however many documents have grown.

use std::collections::VecDeque;
use std::fmt;

use tokio::sync::mpsc;

use super::driver::Done;

/// What is to be done, and told.
type Work = Box<dyn FnOnce() -> Done + Send>;

/// What is being done, and what waits for it.
pub(super) struct Working {
    waiting: VecDeque<Work>,
    running: usize,
    most: usize,
    results: mpsc::UnboundedSender<Done>,
}

impl fmt::Debug for Working {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Working").field("running", &self.running).finish_non_exhaustive()
    }
}

impl Working {
    pub(super) fn new(results: mpsc::UnboundedSender<Done>) -> Self {
        // Half the machine (a guess): who is delivered something, and who has documents open here, has work to do, too.
        let most = std::thread::available_parallelism().map_or(1, |all| all.get().div_ceil(2));
        Self { waiting: VecDeque::new(), running: 0, most, results }
    }

    /// Does this when there is room. It does not panic.
    pub(super) fn put(&mut self, work: impl FnOnce() -> Done + Send + 'static) {
        self.waiting.push_back(Box::new(work));
        self.begin();
    }

    /// To be called when what was done is told.
    pub(super) fn on_done(&mut self) {
        self.running -= 1;
        self.begin();
    }

    fn begin(&mut self) {
        while self.running < self.most {
            let Some(work) = self.waiting.pop_front() else { return };
            self.running += 1;
            let results = self.results.clone();
            tokio::task::spawn_blocking(move || {
                // The driver is gone: nobody needs it.
                let _ = results.send(work());
            });
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use super::super::super::keeper::Lacks;
    use super::*;
    use crate::sync::lock;

    #[tokio::test]
    async fn of_much_that_is_to_be_done_little_is_at_once() {
        let (results, mut done) = mpsc::unbounded_channel();
        let mut working = Working { most: 2, ..Working::new(results) };
        let (begins, mut begun) = mpsc::unbounded_channel();
        let (go, may_go) = std::sync::mpsc::channel();
        let may_go = Arc::new(Mutex::new(may_go));
        for nonce in 0..50 {
            let (begins, may_go) = (begins.clone(), Arc::clone(&may_go));
            working.put(move || {
                begins.send(()).expect("the test waits for it");
                lock(&may_go).recv().expect("the test lets it go on");
                Done::Compared { name: "it".to_owned(), nonce, lacks: Lacks::Nothing }
            });
        }
        for _ in 0..2 {
            begun.recv().await.expect("it begins");
        }
        let mut nonces = Vec::new();
        while nonces.len() < 50 {
            // Nobody else began before one was done, and told.
            assert_eq!((begun.try_recv().is_err(), working.running), (true, 2.min(50 - nonces.len())));
            go.send(()).expect("somebody waits");
            let Some(Done::Compared { nonce, .. }) = done.recv().await else { panic!("it is done") };
            assert!(begun.try_recv().is_err());
            working.on_done();
            nonces.push(nonce);
            if nonces.len() <= 48 {
                begun.recv().await.expect("the next one begins");
            }
        }
        nonces.sort_unstable();
        assert_eq!(nonces, (0..50).collect::<Vec<_>>());
        assert_eq!(working.running, 0);
    }
}
