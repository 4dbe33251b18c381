//! A histogram of durations: sum, maximum, and a fixed number of buckets from which percentiles are
//! estimated.
//!
//! Bucket 0 counts durations below one microsecond, bucket n those from 2^(n-1) to 2^n
//! microseconds, and the last bucket everything above three days. The encoding is the index of the
//! first nonempty bucket, then the counts up to the last nonempty one as LEB128 (groups of seven
//! bits, low groups first).

use std::time::Duration;

const BUCKETS: usize = 40;

/// Durations in microseconds.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Histogram {
    pub sum: u64,
    pub max: u64,
    buckets: Buckets,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Buckets([u64; BUCKETS]);

impl Default for Buckets {
    fn default() -> Buckets {
        Buckets([0; BUCKETS])
    }
}

impl Histogram {
    /// Records a duration.
    pub fn record(&mut self, elapsed: Duration) {
        let micros = u64::try_from(elapsed.as_micros()).unwrap_or(u64::MAX);
        self.sum = self.sum.saturating_add(micros);
        self.max = self.max.max(micros);
        let bucket = (u64::BITS - micros.leading_zeros()) as usize;
        self.buckets.0[bucket.min(BUCKETS - 1)] += 1;
    }

    /// Adds another histogram.
    pub fn add(&mut self, other: &Histogram) {
        self.sum = self.sum.saturating_add(other.sum);
        self.max = self.max.max(other.max);
        for (bucket, count) in self.buckets.0.iter_mut().zip(other.buckets.0) {
            *bucket = bucket.saturating_add(count);
        }
    }

    /// The number of durations.
    pub fn count(&self) -> u64 {
        let counts = self.buckets.0.iter();
        counts.fold(0, |sum, count| sum.saturating_add(*count))
    }

    /// The mean; `None` if empty.
    pub fn mean(&self) -> Option<f64> {
        let count = self.count();
        (count > 0).then(|| self.sum as f64 / count as f64)
    }

    /// The duration that this fraction (0 to 1) did not exceed. The bucket is exact; within it,
    /// values are assumed to be spread evenly. `None` if empty.
    pub fn percentile(&self, part: f64) -> Option<f64> {
        let count = self.count();
        let rank = (count as f64 * part).ceil().max(1.0);
        let mut below = 0.0;
        for (at, &count) in self.buckets.0.iter().enumerate() {
            let here = count as f64;
            if count > 0 && below + here >= rank {
                let (low, high) = (bounds(at).0 as f64, bounds(at).1.min(self.max) as f64);
                return Some(low + (high - low).max(0.0) * (rank - below) / here);
            }
            below += here;
        }
        (count > 0).then_some(self.max as f64)
    }

    /// Encodes the buckets.
    pub fn encode(&self) -> Vec<u8> {
        let buckets = &self.buckets.0;
        let mut bytes = Vec::new();
        let first = buckets.iter().position(|&count| count > 0);
        let last = buckets.iter().rposition(|&count| count > 0);
        let (Some(first), Some(last)) = (first, last) else {
            return bytes;
        };
        bytes.push(first as u8);
        for &count in &buckets[first..=last] {
            let mut rest = count;
            while rest >= 0x80 {
                bytes.push(rest as u8 | 0x80);
                rest >>= 7;
            }
            bytes.push(rest as u8);
        }
        bytes
    }

    /// Decodes the buckets. Invalid bytes are ignored, because anyone may change the file.
    pub fn decode(sum: u64, max: u64, bytes: &[u8]) -> Histogram {
        let mut buckets = Buckets::default();
        let Some((&first, bytes)) = bytes.split_first() else {
            return Histogram { sum, max, buckets };
        };
        let (mut at, mut shift) = (usize::from(first), 0);
        for byte in bytes {
            let Some(bucket) = buckets.0.get_mut(at) else {
                break;
            };
            let bits = u64::from(byte & 0x7f).checked_shl(shift).unwrap_or(0);
            *bucket |= bits;
            shift += 7;
            if byte & 0x80 == 0 {
                (at, shift) = (at + 1, 0);
            }
        }
        Histogram { sum, max, buckets }
    }
}

/// The lower and upper bound of a bucket.
fn bounds(bucket: usize) -> (u64, u64) {
    match bucket {
        0 => (0, 1),
        _ if bucket == BUCKETS - 1 => (1 << (bucket - 1), u64::MAX),
        _ => (1 << (bucket - 1), 1 << bucket),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn times(micros: &[u64]) -> Histogram {
        let mut times = Histogram::default();
        for micros in micros {
            times.record(Duration::from_micros(*micros));
        }
        times
    }

    #[test]
    fn percentiles_are_right_to_the_bucket() {
        let micros: Vec<u64> = (1..=10_000).collect();
        let times = times(&micros);
        assert_eq!((times.count(), times.max), (10_000, 10_000));
        assert_eq!(times.mean(), Some(5000.5));
        for (part, exact) in [(0.5, 5000.0), (0.95, 9500.0), (0.99, 9900.0)] {
            let estimate = times.percentile(part).unwrap();
            // Evenly spread inside each bucket, so far better than the bucket here.
            assert!((estimate / exact - 1.0).abs() < 0.02, "{part}: {estimate}");
        }
        assert_eq!(times.percentile(1.0), Some(10_000.0));
    }

    #[test]
    fn percentiles_of_few_and_of_extremes_stay_within_what_was_seen() {
        assert_eq!(Histogram::default().percentile(0.5), None);
        assert_eq!(Histogram::default().mean(), None);
        let one = times(&[1000]);
        assert!((512.0..=1000.0).contains(&one.percentile(0.5).unwrap()));
        assert_eq!(times(&[0, 0, 0]).percentile(0.99), Some(0.0));
        let long = times(&[5, u64::MAX, u64::MAX]);
        assert_eq!(long.max, u64::MAX);
        assert!(long.percentile(0.99).unwrap() <= u64::MAX as f64);
        assert!(long.percentile(0.1).unwrap() <= 8.0);
    }

    #[test]
    fn what_is_written_down_comes_back() {
        for micros in [
            &[][..],
            &[0],
            &[1, 2, 3, 1000, 1_000_000],
            &[u64::MAX, 0],
            &[77; 1000],
        ] {
            let times = times(micros);
            let bytes = times.encode();
            assert_eq!(Histogram::decode(times.sum, times.max, &bytes), times);
        }
        assert!(times(&[77; 1000]).encode().len() == 3);
    }

    #[test]
    fn nonsense_in_the_file_is_no_panic() {
        let mut seed = 7_u32;
        for length in 0..200 {
            let bytes: Vec<u8> = (0..length)
                .map(|_| {
                    seed = seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                    (seed >> 24) as u8
                })
                .collect();
            let mut read = Histogram::decode(1, 2, &bytes);
            read.add(&read.clone());
            read.percentile(0.5);
        }
        let endless = Histogram::decode(
            1,
            2,
            &[
                3, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff,
            ],
        );
        assert!(endless.count() > 0);
    }
}
