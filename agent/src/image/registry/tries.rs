//! Which server is asked next. Pure but for the waiting.
//!
//! In rounds: every server that is still worth it, in order; between rounds a pause that doubles. A server that says no is
//! not asked again; a round that brought something (bytes of a blob) gives everybody new rounds.

use std::time::Duration;

use super::RegistryError;

/// Rounds without any progress.
const ROUNDS: u32 = 5;
const FIRST_PAUSE: Duration = Duration::from_millis(250);

#[derive(Debug)]
pub(super) struct Tries {
    /// Servers of this round that are still to be asked, the next one last.
    round: Vec<usize>,
    again: Vec<usize>,
    rounds: u32,
    /// The latest word of each server.
    errors: Vec<(usize, RegistryError)>,
}

impl Tries {
    pub(super) fn new(servers: impl Iterator<Item = usize>) -> Self {
        let mut round: Vec<usize> = servers.collect();
        round.reverse();
        Self { round, again: Vec::new(), rounds: 1, errors: Vec::new() }
    }

    /// The server to ask now; None when all hope is gone. Waits between rounds.
    pub(super) async fn next(&mut self) -> Option<usize> {
        if self.round.is_empty() {
            if self.again.is_empty() || self.rounds >= ROUNDS {
                return None;
            }
            tokio::time::sleep(FIRST_PAUSE * 2_u32.pow(self.rounds - 1)).await;
            self.rounds += 1;
            self.round = std::mem::take(&mut self.again);
            self.round.reverse();
        }
        self.round.pop()
    }

    pub(super) fn failed(&mut self, server: usize, error: RegistryError) {
        if error.is_transient() {
            self.again.push(server);
        }
        self.errors.retain(|(who, _)| *who != server);
        self.errors.push((server, error));
    }

    /// Something came: patience begins anew.
    pub(super) fn progressed(&mut self) {
        self.rounds = 1;
    }

    /// What to tell; the last server is the registry itself, the ones before it are mirrors.
    pub(super) fn verdict(mut self) -> RegistryError {
        self.errors.sort_by_key(|(server, _)| *server);
        let mut errors: Vec<RegistryError> =
            self.errors.into_iter().map(|(_, error)| error).collect();
        match errors.len() {
            0 => RegistryError::Local("no server of the registry may be asked for this".into()),
            1 => errors.remove(0),
            _ => {
                let all: Vec<String> = errors.iter().rev().map(ToString::to_string).collect();
                RegistryError::All(all.join("; "))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn busy(host: &str) -> RegistryError {
        RegistryError::Transient { host: host.into(), message: "busy".into() }
    }

    fn no(host: &str) -> RegistryError {
        RegistryError::NotFound { host: host.into(), what: "x".into() }
    }

    #[tokio::test(start_paused = true)]
    async fn a_server_that_says_no_is_not_asked_again() {
        let mut tries = Tries::new(0..2);
        assert_eq!(tries.next().await, Some(0));
        tries.failed(0, no("mirror"));
        assert_eq!(tries.next().await, Some(1));
        tries.failed(1, no("server"));
        assert_eq!(tries.next().await, None);
        assert_eq!(tries.verdict().to_string(), "server: x not found; mirror: x not found");
    }

    #[tokio::test(start_paused = true)]
    async fn patience_ends_and_progress_renews_it() {
        let mut tries = Tries::new(0..1);
        let begin = tokio::time::Instant::now();
        let mut asked = 0;
        while let Some(server) = tries.next().await {
            asked += 1;
            tries.failed(server, busy("server"));
            if asked == 3 {
                tries.progressed();
            }
        }
        assert_eq!(asked, 3 + 4);
        assert_eq!(begin.elapsed(), FIRST_PAUSE * (1 + 2 + 1 + 2 + 4 + 8));
        assert_eq!(tries.verdict(), busy("server"));
    }
}
