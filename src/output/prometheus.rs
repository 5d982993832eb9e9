//! Numbers in the text format of Prometheus.

use std::fmt::Write as _;

/// Groups of samples, each with its help.
#[derive(Default)]
pub struct Metrics {
    text: String,
}

impl Metrics {
    /// Begins a group; its samples follow.
    pub fn gauge(&mut self, name: &str, help: &str) {
        self.begin(name, help, "gauge");
    }

    /// The same for a number that only grows; its name ends with `_total`.
    pub fn counter(&mut self, name: &str, help: &str) {
        self.begin(name, help, "counter");
    }

    fn begin(&mut self, name: &str, help: &str, kind: &str) {
        let _ = write!(self.text, "# HELP {name} {help}\n# TYPE {name} {kind}\n");
    }

    pub fn sample(&mut self, name: &str, labels: &[(&str, &str)], value: f64) {
        let _ = write!(self.text, "{name}");
        for (at, (label, text)) in labels.iter().enumerate() {
            let before = if at == 0 { "{" } else { "," };
            let escaped = text.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n");
            let _ = write!(self.text, "{before}{label}=\"{escaped}\"");
        }
        let after = if labels.is_empty() { "" } else { "}" };
        let _ = writeln!(self.text, "{after} {value}");
    }

    pub fn render(self) -> String {
        self.text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_are_escaped() {
        let mut metrics = Metrics::default();
        metrics.gauge("dflock_up", "Whether it answers");
        metrics.sample("dflock_up", &[("server", "a\"b\\c\nd")], 1.0);
        let lines = "# HELP dflock_up Whether it answers\n# TYPE dflock_up gauge\n";
        assert_eq!(metrics.render(), format!("{lines}dflock_up{{server=\"a\\\"b\\\\c\\nd\"}} 1\n"));
    }
}
