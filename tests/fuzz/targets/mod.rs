//! What must hold of octets that a peer, an endpoint or an operator chose: one function a target, which panics where it does not.
//!
//! The fuzzer calls them (`fuzz_targets/`), and so do the ordinary tests, with the kept corpus and with made-up octets
//! (`mod.rs` one folder up). Each `run` takes any octets at all.

pub mod admin;
pub mod charset;
pub mod config;
pub mod data;
pub mod driver;
pub mod encoded_word;
pub mod header;
pub mod json;
pub mod parameter;
pub mod path;
pub mod proxy_header;
pub mod reply_text;
pub mod session;

/// The first octet, for choices that a target makes, and the rest.
pub fn choices(octets: &[u8]) -> (u8, &[u8]) {
    octets.split_first().map_or((0, octets), |(first, rest)| (*first, rest))
}

/// Where to cut so many octets: as a seed says, in pieces of up to 16 octets or up to 64; always the same for the same seed.
pub fn cuts(seed: u8, len: usize) -> Vec<usize> {
    let mut state = u64::from(seed) | 0x9e37_79b9_7f4a_7c00;
    let longest = if seed.is_multiple_of(2) { 16 } else { 64 };
    let mut at = 0;
    let mut found = Vec::new();
    loop {
        // Knuth's linear congruence; the upper half is even enough for this.
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        at += usize::try_from((state >> 33) % longest).unwrap_or(0) + 1;
        if at >= len {
            return found;
        }
        found.push(at);
    }
}

/// The octets in the pieces that these cuts make.
pub fn pieces<'a>(octets: &'a [u8], cuts: &[usize]) -> Vec<&'a [u8]> {
    let starts = std::iter::once(0).chain(cuts.iter().copied());
    let ends = cuts.iter().copied().chain([octets.len()]);
    starts.zip(ends).map(|(start, end)| &octets[start..end]).collect()
}
