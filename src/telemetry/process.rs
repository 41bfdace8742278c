//! The process's own metrics, read from `/proc/self` (proc(5)) on request, with the names that Prometheus's client
//! libraries use.

use std::fs;
use std::time::SystemTime;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;

/// Collects the process's metrics.
#[derive(Debug)]
pub struct Process {
    started: f64,
}

impl Process {
    /// For a process that started just now.
    pub fn new() -> Self {
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        Self { started: now.as_secs_f64() }
    }
}

impl Default for Process {
    fn default() -> Self {
        Self::new()
    }
}

impl Collector for Process {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), std::fmt::Error> {
        let mut gauge = |name, help, value: Option<f64>| match value {
            Some(value) => {
                let metric = encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
                ConstGauge::new(value).encode(metric)
            }
            None => Ok(()),
        };
        let stat = Stat::read();
        gauge(
            "process_start_time_seconds",
            "When the process started, in seconds since the epoch",
            Some(self.started),
        )?;
        gauge("process_resident_memory_bytes", "Memory in use", stat.as_ref().map(|stat| stat.resident))?;
        gauge(
            "process_virtual_memory_bytes",
            "Address space in use",
            stat.as_ref().map(|stat| stat.virtual_size),
        )?;
        gauge("process_threads", "Threads", stat.as_ref().map(|stat| stat.threads))?;
        gauge("process_open_fds", "Open files", open_files())?;
        gauge("process_max_fds", "Files that may be open", max_files())?;
        if let Some(stat) = stat {
            let help = "CPU time used, in user and kernel mode";
            let metric = encoder.encode_descriptor("process_cpu_seconds", help, None, MetricType::Counter)?;
            ConstCounter::new(stat.cpu).encode(metric)?;
        }
        Ok(())
    }
}

struct Stat {
    cpu: f64,
    threads: f64,
    virtual_size: f64,
    resident: f64,
}

impl Stat {
    /// Fields 14, 15, 20, 23 and 24 of `/proc/self/stat`; the name in field 2 may hold blanks and parentheses.
    fn read() -> Option<Self> {
        let text = fs::read_to_string("/proc/self/stat").ok()?;
        let rest = text.get(text.rfind(')')? + 2..)?;
        let fields: Vec<&str> = rest.split_ascii_whitespace().collect();
        let field = |number: usize| fields.get(number - 3)?.parse::<f64>().ok();
        let ticks = rustix::param::clock_ticks_per_second() as f64;
        let page = rustix::param::page_size() as f64;
        Some(Self {
            cpu: (field(14)? + field(15)?) / ticks,
            threads: field(20)?,
            virtual_size: field(23)?,
            resident: field(24)? * page,
        })
    }
}

fn open_files() -> Option<f64> {
    // One of them is the directory that is being read.
    fs::read_dir("/proc/self/fd").ok().map(|entries| entries.count().saturating_sub(1) as f64)
}

fn max_files() -> Option<f64> {
    let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile);
    limit.current.map(|limit| limit as f64)
}
