//! Instruction sets, detected at run time, and the one place that enters code compiled for them.
#![allow(unsafe_code)]

use std::fmt;

/// An instruction set that this machine has.
///
/// A value is a proof: it can only be had from [`Isa::detect`], [`Isa::available`],
/// [`Isa::named`] or [`Isa::PORTABLE`], so safe code can never enter instructions that the
/// machine lacks. Which one is used never changes a bit of a result, only the time it takes.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Isa(Level);

#[derive(Clone, Copy, PartialEq, Eq, Hash)]
enum Level {
    Portable,
    #[cfg(target_arch = "x86_64")]
    Avx2,
    #[cfg(target_arch = "x86_64")]
    Avx512,
    /// With dot products of bytes; NEON alone is part of every AArch64, and so of the portable code there.
    #[cfg(target_arch = "aarch64")]
    Neon,
}

impl Isa {
    /// Plain Rust: present everywhere, and the definition of every result.
    pub const PORTABLE: Isa = Isa(Level::Portable);

    /// The fastest instruction set of this machine.
    #[must_use]
    pub fn detect() -> Isa {
        #[cfg(target_arch = "x86_64")]
        {
            if has_avx512() {
                return Isa(Level::Avx512);
            }
            if has_avx2() {
                return Isa(Level::Avx2);
            }
        }
        #[cfg(target_arch = "aarch64")]
        if std::arch::is_aarch64_feature_detected!("dotprod") {
            return Isa(Level::Neon);
        }
        Isa::PORTABLE
    }

    /// Every instruction set of this machine, fastest first; the last one is always
    /// [`Isa::PORTABLE`].
    #[must_use]
    pub fn available() -> Vec<Isa> {
        let mut found = Vec::new();
        #[cfg(target_arch = "x86_64")]
        {
            if has_avx512() {
                found.push(Isa(Level::Avx512));
            }
            if has_avx2() {
                found.push(Isa(Level::Avx2));
            }
        }
        #[cfg(target_arch = "aarch64")]
        if std::arch::is_aarch64_feature_detected!("dotprod") {
            found.push(Isa(Level::Neon));
        }
        found.push(Isa::PORTABLE);
        found
    }

    /// The instruction set of that [name](Isa::name), if this machine has it.
    #[must_use]
    pub fn named(name: &str) -> Option<Isa> {
        Isa::available().into_iter().find(|isa| isa.name() == name)
    }

    /// `avx512`, `avx2`, `neon` or `portable`.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self.0 {
            Level::Portable => "portable",
            #[cfg(target_arch = "x86_64")]
            Level::Avx2 => "avx2",
            #[cfg(target_arch = "x86_64")]
            Level::Avx512 => "avx512",
            #[cfg(target_arch = "aarch64")]
            Level::Neon => "neon",
        }
    }

    #[cfg(target_arch = "x86_64")]
    pub(crate) fn is_avx512(self) -> bool {
        self.0 == Level::Avx512
    }

    #[cfg(target_arch = "x86_64")]
    pub(crate) fn is_avx2(self) -> bool {
        self.0 == Level::Avx2
    }

    #[cfg(target_arch = "aarch64")]
    pub(crate) fn is_neon(self) -> bool {
        self.0 == Level::Neon
    }

    /// Runs `kernel` as compiled for this instruction set.
    ///
    /// The kernel is written once, in plain Rust, and vectorised by the compiler three times.
    /// That cannot change its result: Rust neither reorders nor contracts floating-point
    /// operations.
    #[inline]
    pub(crate) fn run<K: Kernel>(self, kernel: K) -> K::Output {
        #[cfg(target_arch = "x86_64")]
        #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma")]
        fn avx512<K: Kernel>(kernel: K) -> K::Output {
            kernel.run()
        }
        #[cfg(target_arch = "x86_64")]
        #[target_feature(enable = "avx2,fma")]
        fn avx2<K: Kernel>(kernel: K) -> K::Output {
            kernel.run()
        }
        match self.0 {
            Level::Portable => kernel.run(),
            #[cfg(target_arch = "x86_64")]
            // SAFETY: an `Isa` of this level exists only where `has_avx2` said yes.
            Level::Avx2 => unsafe { avx2(kernel) },
            #[cfg(target_arch = "x86_64")]
            // SAFETY: an `Isa` of this level exists only where `has_avx512` said yes.
            Level::Avx512 => unsafe { avx512(kernel) },
            #[cfg(target_arch = "aarch64")]
            Level::Neon => kernel.run(),
        }
    }
}

impl fmt::Debug for Isa {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl fmt::Display for Isa {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A computation to be compiled once for each instruction set.
///
/// `run`, and whatever it calls in a loop, must be `#[inline(always)]`: code that is not inlined
/// is compiled for the baseline and is slow, though never wrong.
pub(crate) trait Kernel {
    type Output;
    fn run(self) -> Self::Output;
}

#[cfg(target_arch = "x86_64")]
fn has_avx2() -> bool {
    is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma")
}

#[cfg(target_arch = "x86_64")]
fn has_avx512() -> bool {
    has_avx2()
        && is_x86_feature_detected!("avx512f")
        && is_x86_feature_detected!("avx512bw")
        && is_x86_feature_detected!("avx512dq")
        && is_x86_feature_detected!("avx512vl")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_detected_set_is_the_first_available_and_portable_the_last() {
        let all = Isa::available();
        assert_eq!(all.first(), Some(&Isa::detect()));
        assert_eq!(all.last(), Some(&Isa::PORTABLE));
    }

    #[test]
    fn names_lead_back_to_the_set() {
        for isa in Isa::available() {
            assert_eq!(Isa::named(isa.name()), Some(isa));
        }
        assert_eq!(Isa::named("sse9"), None);
    }
}
