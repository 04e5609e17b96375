//! Which engine the config asks for.

/// Where the evidence comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EngineKind {
    Kfunc,
    Cgroupfs,
    Procfs,
}

impl EngineKind {
    pub const fn name(self) -> &'static str {
        match self {
            Self::Kfunc => "kfunc",
            Self::Cgroupfs => "cgroupfs",
            Self::Procfs => "procfs",
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EngineChoice {
    /// `None`: the best that works.
    pub kind: Option<EngineKind>,
    /// Turn the BPF JIT on where it is off: without it the kernel refuses every program that calls
    /// a kfunc. riscv64 boots so.
    pub bpf_jit: bool,
}
