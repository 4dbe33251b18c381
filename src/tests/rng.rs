//! Seeded pseudo-random numbers, and rounds of cases that can be replayed.
//!
//! `VSKI_CASES` sets how many cases each test runs. A failure prints the seed of its round;
//! `VSKI_SEED` makes that the first round, so the same test fails in the same way at once.

use std::time::Instant;

/// The generator splitmix64: tiny, and good enough to choose test data.
pub struct Rng(u64);

impl Rng {
    pub fn new(seed: u64) -> Rng {
        Rng(seed)
    }

    pub fn bits(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut bits = self.0;
        bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        bits ^ (bits >> 31)
    }

    /// A number from 0 to `end - 1`.
    pub fn below(&mut self, end: usize) -> usize {
        let end = u64::try_from(end.max(1)).unwrap();
        usize::try_from(self.bits() % end).unwrap()
    }

    pub fn between(&mut self, first: usize, last: usize) -> usize {
        first + self.below(last - first + 1)
    }

    pub fn one_in(&mut self, count: usize) -> bool {
        self.below(count) == 0
    }

    pub fn percent(&mut self, share: usize) -> bool {
        self.below(100) < share
    }

    pub fn pick<'a, T>(&mut self, list: &'a [T]) -> &'a T {
        &list[self.below(list.len())]
    }

    /// A string from a list of literals.
    pub fn word(&mut self, list: &[&str]) -> String {
        (*self.pick(list)).to_owned()
    }
}

/// Prints on a panic how to replay it.
struct Announce<'a> {
    test: &'a str,
    seed: u64,
}

impl Drop for Announce<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let Announce { test, seed } = self;
            eprintln!("replay: VSKI_SEED={seed} cargo test --bin vski {test}");
        }
    }
}

/// Runs rounds until all cases are done. A round gets its own generator and the number of cases
/// that are left, and returns how many it did.
pub fn rounds(test: &str, cases: usize, mut round: impl FnMut(&mut Rng, usize) -> usize) {
    let cases = number("VSKI_CASES").map_or(cases, |cases| usize::try_from(cases).unwrap());
    let fresh = || u64::from_le_bytes(crate::base::ids::random_bytes().unwrap());
    let mut seed = number("VSKI_SEED").unwrap_or_else(fresh);
    let (started, first, mut done) = (Instant::now(), seed, 0);
    while done < cases {
        let _announce = Announce { test, seed };
        done += round(&mut Rng::new(seed), cases - done).max(1);
        seed = Rng::new(seed).bits();
    }
    let seconds = started.elapsed().as_secs_f64();
    eprintln!("{test}: {done} cases in {seconds:.1} s, seed {first}");
}

fn number(variable: &str) -> Option<u64> {
    let text = std::env::var(variable).ok()?;
    Some(
        text.parse()
            .unwrap_or_else(|_| panic!("{variable}={text} is not a number")),
    )
}
