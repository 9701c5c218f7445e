//! The one way to wait: ask again until a deadline. Tests name what they wait for, never how long they
//! sleep.

use std::fmt::Display;
use std::thread::sleep;
use std::time::{Duration, Instant};

/// Pause between two questions. Short against anything that a test measures.
const PAUSE: Duration = Duration::from_millis(15);

/// The deadline on a slow machine: `$KOBUNE_PATIENCE` times as long (the software-emulated one sets it).
/// Bounds that a test *asserts* are not stretched.
pub fn patience(deadline: Duration) -> Duration {
    let factor = std::env::var("KOBUNE_PATIENCE").ok().and_then(|text| text.parse().ok());
    deadline * factor.unwrap_or(1)
}

/// Asks until the answer is `Ok`; returns it.
///
/// # Panics
/// When `deadline` passes, with `what` and the last `Err`.
#[track_caller]
pub fn eventually<T, E: Display>(
    what: &str,
    deadline: Duration,
    mut question: impl FnMut() -> Result<T, E>,
) -> T {
    let deadline = patience(deadline);
    let started = Instant::now();
    loop {
        match question() {
            Ok(answer) => return answer,
            Err(error) if started.elapsed() >= deadline => {
                panic!("{what}: not within {deadline:?}: {error}")
            }
            Err(_) => sleep(PAUSE),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn asks_again_until_it_is_so() {
        let mut asked = 0;
        let answer = eventually("third time", Duration::from_secs(5), || {
            asked += 1;
            if asked == 3 { Ok(asked) } else { Err("not yet") }
        });
        assert_eq!(answer, 3);
    }

    #[test]
    #[should_panic(expected = "pigs: not within")]
    fn gives_up_at_the_deadline() {
        eventually("pigs", Duration::ZERO, || Err::<(), _>("do not fly"));
    }
}
