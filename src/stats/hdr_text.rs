//! HdrHistogram's percentile text (`.hgrm`), as its own `outputPercentileDistribution` writes it with five ticks per half
//! distance, so that its plotter and its readers take it. Values are microseconds. Nothing here fails or logs.

use hdrhistogram::Histogram;

const TICKS_PER_HALF_DISTANCE: f64 = 5.0;

/// One line of the text.
pub(super) struct Percentile {
    pub(super) value: u64,
    /// 0 to 100, the level iterated to.
    pub(super) percentile: f64,
    /// Durations up to `value`.
    pub(super) count: u64,
}

/// The levels at which HdrHistogram reports: five steps over each half of the distance that is left to 100 %. Levels are
/// summed up in per cent, as there, so that a level that falls exactly on a value's share gives the same value.
#[expect(clippy::cast_precision_loss, reason = "shares, and steps of at most 2^53")]
pub(super) fn percentiles(histogram: &Histogram<u64>) -> Vec<Percentile> {
    let (mut lines, mut level, mut count) = (Vec::new(), 0.0_f64, 0);
    for step in histogram.iter_recorded() {
        count += step.count_at_value();
        let value = step.value_iterated_to();
        while level < 100.0 && 100.0 * count as f64 / histogram.len() as f64 >= level {
            lines.push(Percentile { value, percentile: level, count });
            if count == histogram.len() {
                break;
            }
            let halvings = (100.0 / (100.0 - level)).log2().floor() + 1.0;
            level += 100.0 / (TICKS_PER_HALF_DISTANCE * halvings.exp2());
        }
        if count == histogram.len() {
            lines.push(Percentile { value, percentile: 100.0, count });
        }
    }
    lines
}

/// The whole text.
pub fn hgrm(histogram: &Histogram<u64>) -> String {
    let mut text = format!("{:>12} {:>14} {:>10} {:>14}\n\n", "Value", "Percentile", "TotalCount", "1/(1-Percentile)");
    for Percentile { value, percentile, count } in percentiles(histogram) {
        let line = format!("{value:>8}.000 {:.12} {count:>10}", percentile / 100.0);
        if percentile < 100.0 {
            text.push_str(&format!("{line} {:>14.2}\n", 1.0 / (1.0 - percentile / 100.0)));
        } else {
            text.push_str(&format!("{line}\n"));
        }
    }
    let (mean, stdev) = if histogram.is_empty() { (0.0, 0.0) } else { (histogram.mean(), histogram.stdev()) };
    text.push_str(&format!("#[Mean    = {mean:>12.3}, StdDeviation   = {stdev:>12.3}]\n"));
    text.push_str(&format!("#[Max     = {:>8}.000, Total count    = {:>12}]\n", histogram.max(), histogram.len()));
    // 2048 sub-buckets resolve three digits; each further bucket doubles the range, up to one hour.
    text.push_str(&format!("#[Buckets = {:>12}, SubBuckets     = {:>12}]\n", histogram.buckets(), 2048));
    text
}

#[cfg(test)]
mod tests {
    use crate::stats::{Stage, Stats, Window};

    /// The same durations written by another implementation (the `hdrhistogram` package of PyPI, 0.10.8).
    const ANOTHER: &str = include_str!("testdata/squares.hgrm");

    #[test]
    fn the_text_is_what_another_implementation_writes() {
        let stats = Stats::new();
        let recorder = stats.recorder();
        (0..5000).for_each(|i: u64| recorder.record(Stage::Forward, i * i * 7919 % 500_000 + 1));
        (1..=20).for_each(|i| recorder.record(Stage::Forward, i * 1_000_000));
        let text = super::hgrm(&stats.histogram(Stage::Forward, Window::Minute).histogram);
        for (ours, theirs) in text.lines().zip(ANOTHER.lines()) {
            assert_eq!(ours, theirs);
        }
        assert_eq!(text.lines().count(), ANOTHER.lines().count());
    }

    #[test]
    fn an_empty_histogram_is_a_readable_text() {
        let text = super::hgrm(&Stats::new().histogram(Stage::Store, Window::Total).histogram);
        assert!(text.contains("Total count    =            0]"), "{text}");
        assert!(!text.contains("NaN"), "{text}");
    }
}
