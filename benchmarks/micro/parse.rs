//! Reading a configuration, as a reload does.

use divan::Bencher;
use pointsman_core::config::parse;

#[divan::bench(args = [1, 100, 10_000])]
fn configuration(bencher: Bencher<'_, '_>, backends: usize) {
    let list: Vec<_> = (0..backends).map(|n| format!("10.{}.{}.1:80", n / 256, n % 256)).collect();
    let text = format!(
        "listeners: {{web: {{bind: 0.0.0.0:8080, pool: web}}}}\npools:\n  web:\n    discover: [{{static: [{}]}}]\n",
        list.join(", ")
    );
    bencher.bench(|| parse("pointsman.yaml", divan::black_box(&text), &|_| None));
}
