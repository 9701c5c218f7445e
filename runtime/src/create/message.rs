//! The messages between parent and child as bytes. Pure.

/// Longer than any message.
pub(super) const MAX: usize = 4096;

/// From parent to child: your ids are mapped.
pub(super) const MAPPED: &[u8] = b"M";

/// From parent to child: execute the program.
pub(super) const GO: &[u8] = b"G";

/// From child to parent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Message {
    /// Everything is set up but the program; carries nothing.
    Ready,
    /// The pty's master comes with it.
    Terminal,
    /// A seccomp filter asks about system calls here: the number of the descriptor in the child, which waits for
    /// [`GO`] until its parent has passed it on.
    Listener(i32),
    /// The hooks that run outside are due; the child waits for [`GO`].
    Hooks,
    Failed(Failure),
    /// The program was executed, or the child died: the exit tells which.
    Closed,
}

/// Why the program does not run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Failure {
    /// 127 or 126 when it is the program that cannot be executed, 128 otherwise.
    pub(crate) exit_code: u8,
    pub(crate) message: String,
}

impl Failure {
    pub(crate) fn is_program(&self) -> bool {
        self.exit_code < 128
    }
}

impl Message {
    pub(super) fn encode(&self) -> Vec<u8> {
        match self {
            Message::Ready => b"R".to_vec(),
            Message::Terminal => b"T".to_vec(),
            Message::Hooks => b"H".to_vec(),
            Message::Listener(number) => [&b"L"[..], &number.to_ne_bytes()].concat(),
            Message::Closed => Vec::new(),
            Message::Failed(failure) => {
                let mut bytes = vec![b'F', failure.exit_code];
                bytes.extend(failure.message.bytes().take(MAX - 2));
                bytes
            }
        }
    }

    pub(super) fn decode(bytes: &[u8]) -> Message {
        match bytes {
            [] => Message::Closed,
            [b'R'] => Message::Ready,
            [b'T'] => Message::Terminal,
            [b'H'] => Message::Hooks,
            [b'L', a, b, c, d] => Message::Listener(i32::from_ne_bytes([*a, *b, *c, *d])),
            [b'F', exit_code, text @ ..] => Message::Failed(Failure {
                exit_code: *exit_code,
                message: String::from_utf8_lossy(text).into_owned(),
            }),
            _ => Message::Failed(Failure {
                exit_code: 128,
                message: "the new process sent a message that is none".into(),
            }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_survive_the_way() {
        let failure = Failure { exit_code: 127, message: "exec \"/x\": no such file".into() };
        for message in [
            Message::Ready,
            Message::Terminal,
            Message::Hooks,
            Message::Listener(-7),
            Message::Closed,
            Message::Failed(failure),
        ] {
            assert_eq!(Message::decode(&message.encode()), message);
        }
    }

    #[test]
    fn a_long_reason_is_cut() {
        let message = "é".repeat(MAX);
        let encoded = Message::Failed(Failure { exit_code: 128, message }).encode();
        assert!(encoded.len() <= MAX);
        assert!(matches!(Message::decode(&encoded), Message::Failed(_)));
    }
}
