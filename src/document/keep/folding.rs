//! What a keeper has folded, on blocking threads: a few at a time, so that others who have something to do there have room, however many documents have grown.

use std::collections::VecDeque;
use std::panic::catch_unwind;

use tokio::sync::mpsc;

use super::super::Malformed;
use super::super::keeper::Fold;
use super::super::wire::State;
use super::driver::Done;

/// What is being folded, and what waits for it.
#[derive(Debug)]
pub(super) struct Folding {
    waiting: VecDeque<(String, State, Fold)>,
    running: usize,
    most: usize,
    results: mpsc::UnboundedSender<Done>,
}

impl Folding {
    pub(super) fn new(results: mpsc::UnboundedSender<Done>) -> Self {
        // Half the machine (a guess): who is delivered something, and who has documents open here, has work to do, too.
        let most = std::thread::available_parallelism().map_or(1, |all| all.get().div_ceil(2));
        Self { waiting: VecDeque::new(), running: 0, most, results }
    }

    pub(super) fn fold(&mut self, name: String, state: State, fold: Fold) {
        self.waiting.push_back((name, state, fold));
        self.begin();
    }

    /// To be called when one has come to its end.
    pub(super) fn on_folded(&mut self) {
        self.running -= 1;
        self.begin();
    }

    fn begin(&mut self) {
        while self.running < self.most {
            let Some((name, state, fold)) = self.waiting.pop_front() else { return };
            self.running += 1;
            let results = self.results.clone();
            tokio::task::spawn_blocking(move || {
                let folded = catch_unwind(|| fold(&state));
                let folded = folded.unwrap_or_else(|_| Err(Malformed::new("its type panicked")));
                // The driver is gone: nobody needs it.
                let _ = results.send(Done::Folded { name, folded });
            });
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    static RUNNING: AtomicUsize = AtomicUsize::new(0);
    static MOST: AtomicUsize = AtomicUsize::new(0);

    fn slow(state: &State) -> Result<State, Malformed> {
        MOST.fetch_max(RUNNING.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
        // Others have time to begin.
        std::thread::sleep(std::time::Duration::from_millis(2));
        RUNNING.fetch_sub(1, Ordering::SeqCst);
        Ok(state.clone())
    }

    #[tokio::test]
    async fn of_many_that_are_to_be_folded_few_are_at_once() {
        let (results, mut done) = mpsc::unbounded_channel();
        let mut folding = Folding { most: 2, ..Folding::new(results) };
        (0..50).for_each(|n| folding.fold(n.to_string(), State::default(), slow));
        let mut names = Vec::new();
        while names.len() < 50 {
            let Some(Done::Folded { name, folded: Ok(_) }) = done.recv().await else { panic!("a fold") };
            folding.on_folded();
            names.push(name.parse::<usize>().expect("a number"));
        }
        names.sort_unstable();
        assert_eq!(names, (0..50).collect::<Vec<_>>());
        assert_eq!((MOST.load(Ordering::SeqCst) <= 2, folding.running), (true, 0));
    }
}
