//! The system calls that no library wraps safely, one file per kernel facility. Decides nothing.

pub(crate) mod packet;
