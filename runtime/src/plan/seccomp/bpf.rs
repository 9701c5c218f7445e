//! An assembler for classic BPF programs that the kernel takes as seccomp filters. Pure.
//!
//! Jumps in BPF only lead forward, so a program is written from its end: whatever an instruction may jump to exists
//! already. Conditional jumps reach 255 instructions; further ones go over a jump in between.

use crate::sys::seccomp::Instruction;

/// The kernel's bound for one filter.
pub(super) const MAX_INSTRUCTIONS: usize = 4096;

const LOAD: u16 = 0x20; // BPF_LD | BPF_W | BPF_ABS
const AND: u16 = 0x54; // BPF_ALU | BPF_AND | BPF_K
const RETURN: u16 = 0x06; // BPF_RET | BPF_K
const JUMP: u16 = 0x05; // BPF_JMP | BPF_JA

/// Comparisons of the accumulator with a number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Test {
    Equal = 0x15,
    Greater = 0x25,
    GreaterOrEqual = 0x35,
}

/// A place in the program: how many instructions are from it to the end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Label(usize);

#[derive(Debug, Default)]
pub(super) struct Program {
    /// Last instruction first.
    reversed: Vec<Instruction>,
    returns: std::collections::HashMap<u32, Label>,
}

impl Program {
    fn push(&mut self, code: u16, value: u32, yes: u8, no: u8) -> Label {
        self.reversed.push(Instruction { code, yes, no, value });
        Label(self.reversed.len())
    }

    /// Loads a word of `struct seccomp_data`, then goes on with what was written before.
    pub(super) fn load(&mut self, offset: u32) -> Label {
        self.push(LOAD, offset, 0, 0)
    }

    pub(super) fn and(&mut self, mask: u32) -> Label {
        self.push(AND, mask, 0, 0)
    }

    /// The verdict; one that is near enough already is used again.
    pub(super) fn verdict(&mut self, action: u32) -> Label {
        match self.returns.get(&action) {
            Some(label) if self.distance(*label) < 200 => *label,
            _ => {
                let label = self.push(RETURN, action, 0, 0);
                self.returns.insert(action, label);
                label
            }
        }
    }

    /// What is to be written next continues at `target`.
    pub(super) fn go(&mut self, target: Label) -> Label {
        match self.distance(target) {
            0 => target,
            distance => self.push(JUMP, distance as u32, 0, 0),
        }
    }

    pub(super) fn branch(&mut self, test: Test, value: u32, yes: Label, no: Label) -> Label {
        // The second may need one more instruction.
        let yes = self.near(yes, 1);
        let no = self.near(no, 0);
        let (to_yes, to_no) = (self.distance(yes) as u8, self.distance(no) as u8);
        self.push(test as u16, value, to_yes, to_no)
    }

    /// `target`, or a jump to it, so that a conditional jump after `more` instructions reaches it.
    fn near(&mut self, target: Label, more: usize) -> Label {
        if self.distance(target) + more <= usize::from(u8::MAX) { target } else { self.hop(target) }
    }

    fn hop(&mut self, target: Label) -> Label {
        self.push(JUMP, self.distance(target) as u32, 0, 0)
    }

    /// Instructions that a jump written next would skip.
    fn distance(&self, target: Label) -> usize {
        self.reversed.len() - target.0
    }

    /// The program, which begins with what was written last.
    pub(super) fn finish(mut self) -> Vec<Instruction> {
        self.reversed.reverse();
        self.reversed
    }
}
