//! How a plan is written on the command line: `a*3`, `b=exp:30ms`, `1000/s`, `bursts:50`, `down=b,join=d*2`.
//!
//! Each type parses what it prints. An error names the expected form, with an example.

use std::fmt::{self, Display, Formatter};
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use super::plan::{Arrivals, BackendChange, BackendSpec, Clients, Intensity, Servers, ServiceTime, Setting};

/// The greatest weight, as in a configuration.
const MAX_WEIGHT: u32 = 256;
/// The default shape of Pareto service times: the variance is infinite, the sample mean converges soon.
const DEFAULT_ALPHA: f64 = 1.5;
/// The default number of connections in a burst.
const DEFAULT_BURST: u32 = 100;
/// The longest time: a sum of a hundred million of them still fits a `Duration`.
const LONGEST: Duration = Duration::from_secs(1_000_000);

/// Reads a length of time above 0.
pub fn time(text: &str) -> Result<Duration, String> {
    match humantime::parse_duration(text) {
        Ok(time) if !time.is_zero() && time <= LONGEST => Ok(time),
        Ok(_) => Err(format!("{text:?} is not a time from 1ns to {}", format_time(LONGEST))),
        Err(error) => Err(format!("{text:?} is not a time such as 10ms or 1.5s: {error}")),
    }
}

/// A time as [`time`] reads it.
pub fn format_time(time: Duration) -> String {
    humantime::format_duration(time).to_string().replace(' ', "")
}

/// Reads connections a second, as `1000/s`, `60/m` or just `1000`.
pub fn rate(text: &str) -> Result<Intensity, String> {
    let (number, seconds) = match text.split_once('/') {
        None | Some((_, "s")) => (text.trim_end_matches("/s"), 1.0),
        Some((number, "m")) => (number, 60.0),
        Some((number, "h")) => (number, 3600.0),
        Some(_) => {
            return Err(format!("a rate is a number for each s, m or h, such as 1000/s, not {text:?}"));
        }
    };
    match number.parse::<f64>() {
        Ok(number) if (1e-3..=1e9).contains(&(number / seconds)) => Ok(Intensity::Rate(number / seconds)),
        _ => Err(format!("a rate is a number from 0.001/s to 1000000000/s, such as 1000/s, not {text:?}")),
    }
}

/// Reads a part of what the backends can serve, as `70%`.
pub fn load(text: &str) -> Result<Intensity, String> {
    match text.strip_suffix('%').map(str::parse::<f64>) {
        Some(Ok(percent)) if (0.1..=1000.0).contains(&percent) => Ok(Intensity::Load(percent / 100.0)),
        _ => Err(format!("a load is from 0.1% to 1000%, such as 70%, not {text:?}")),
    }
}

/// Reads the changes of one event, as `down=b,join=d*2`.
pub fn changes(text: &str) -> Result<Vec<BackendChange<Arc<str>>>, String> {
    text.split(',').map(str::parse).collect()
}

fn name(text: &str) -> Result<Arc<str>, String> {
    let allowed = |c: char| c.is_alphanumeric() || "-_.:[]/".contains(c);
    if !text.is_empty() && text.chars().all(allowed) {
        return Ok(text.into());
    }
    Err(format!("{text:?} is not a backend's name: letters, digits and any of - _ . : [ ] /"))
}

fn with_weight(text: &str) -> Result<(Arc<str>, Option<u32>), String> {
    let Some((backend, weight)) = text.split_once('*') else { return Ok((name(text)?, None)) };
    match weight.parse() {
        Ok(weight) if weight <= MAX_WEIGHT => Ok((name(backend)?, Some(weight))),
        _ => Err(format!("a weight is a number from 0 to {MAX_WEIGHT}, as in a*3, not {weight:?}")),
    }
}

impl FromStr for BackendSpec {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (name, weight) = with_weight(text)?;
        Ok(Self { name, weight: weight.unwrap_or(1) })
    }
}

impl Display for BackendSpec {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        write!(f, "{}*{}", self.name, self.weight)
    }
}

impl<T: FromStr<Err = String>> FromStr for Setting<T> {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (backend, value) = match text.split_once('=') {
            Some((backend, value)) => (Some(name(backend)?), value),
            None => (None, text),
        };
        Ok(Self { backend, value: value.parse()? })
    }
}

impl<T: Display> Display for Setting<T> {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match &self.backend {
            Some(backend) => write!(f, "{backend}={}", self.value),
            None => write!(f, "{}", self.value),
        }
    }
}

impl FromStr for ServiceTime {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let parts: Vec<&str> = text.split(':').collect();
        match parts[..] {
            ["fixed", mean] => Ok(Self::Fixed(time(mean)?)),
            ["exp", mean] => Ok(Self::Exponential(time(mean)?)),
            ["pareto", mean] => Ok(Self::Pareto { mean: time(mean)?, alpha: DEFAULT_ALPHA }),
            ["pareto", mean, alpha] => match alpha.parse::<f64>() {
                Ok(alpha) if (1.01..=100.0).contains(&alpha) => Ok(Self::Pareto { mean: time(mean)?, alpha }),
                _ => Err(format!("the alpha of pareto:TIME:ALPHA is from 1.01 to 100, not {alpha:?}")),
            },
            _ => Err(format!(
                "a service time is fixed:TIME, exp:TIME or pareto:TIME[:ALPHA], such as exp:10ms, not {text:?}"
            )),
        }
    }
}

impl Display for ServiceTime {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match *self {
            Self::Fixed(mean) => write!(f, "fixed:{}", format_time(mean)),
            Self::Exponential(mean) => write!(f, "exp:{}", format_time(mean)),
            Self::Pareto { mean, alpha } => write!(f, "pareto:{}:{alpha}", format_time(mean)),
        }
    }
}

impl FromStr for Servers {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.parse() {
            Ok(number @ 1..=1_000_000) => Ok(Self::Number(number)),
            _ if text == "unlimited" => Ok(Self::Unlimited),
            _ => Err(format!("servers are a number from 1 to 1000000, or unlimited, not {text:?}")),
        }
    }
}

impl Display for Servers {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self {
            Self::Number(number) => write!(f, "{number}"),
            Self::Unlimited => f.write_str("unlimited"),
        }
    }
}

impl FromStr for Arrivals {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.split_once(':').map_or((text, None), |(word, number)| (word, Some(number))) {
            ("steady", None) => Ok(Self::Steady),
            ("poisson", None) => Ok(Self::Poisson),
            ("bursts", None) => Ok(Self::Bursts(DEFAULT_BURST)),
            ("bursts", Some(number)) => match number.parse() {
                Ok(number @ 1..=1_000_000) => Ok(Self::Bursts(number)),
                _ => Err(format!("a burst has 1 to 1000000 connections, as in bursts:50, not {number:?}")),
            },
            _ => Err(format!("arrivals are steady, poisson, bursts or bursts:NUMBER, not {text:?}")),
        }
    }
}

impl Display for Arrivals {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self {
            Self::Steady => f.write_str("steady"),
            Self::Poisson => f.write_str("poisson"),
            Self::Bursts(number) => write!(f, "bursts:{number}"),
        }
    }
}

impl FromStr for Clients {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let parts: Vec<&str> = text.split(':').collect();
        let (number, exponent) = match parts[..] {
            [number] => (number, Ok(0.0)),
            [number, "zipf"] => (number, Ok(1.0)),
            [number, "zipf", exponent] => (number, exponent.parse()),
            _ => {
                return Err(format!(
                    "clients are NUMBER or NUMBER:zipf[:EXPONENT], such as 1000:zipf, not {text:?}"
                ));
            }
        };
        match (number.parse(), exponent) {
            (Ok(number @ 1..=100_000_000), Ok(exponent)) if (0.0..=10.0).contains(&exponent) => {
                Ok(Self { number, exponent })
            }
            _ => Err(format!(
                "there are 1 to 100000000 clients, and the exponent is from 0 to 10, as in 1000:zipf:1.1, not {text:?}"
            )),
        }
    }
}

impl Display for Clients {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.number)?;
        if self.exponent > 0.0 { write!(f, ":zipf:{}", self.exponent) } else { Ok(()) }
    }
}

impl FromStr for BackendChange<Arc<str>> {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wanted = || {
            format!(
                "an event is down=NAME, up=NAME, leave=NAME, join=NAME[*WEIGHT] or weight=NAME*WEIGHT, not {text:?}"
            )
        };
        let (word, backend) = text.split_once('=').ok_or_else(wanted)?;
        let (name, weight) = with_weight(backend)?;
        match (word, weight) {
            ("down", None) => Ok(Self::Down(name)),
            ("up", None) => Ok(Self::Up(name)),
            ("leave", None) => Ok(Self::Leave(name)),
            ("join", weight) => Ok(Self::Join(name, weight.unwrap_or(1))),
            ("weight", Some(weight)) => Ok(Self::Weight(name, weight)),
            _ => Err(wanted()),
        }
    }
}

impl Display for BackendChange<Arc<str>> {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self {
            Self::Down(name) => write!(f, "down={name}"),
            Self::Up(name) => write!(f, "up={name}"),
            Self::Leave(name) => write!(f, "leave={name}"),
            Self::Join(name, 1) => write!(f, "join={name}"),
            Self::Join(name, weight) => write!(f, "join={name}*{weight}"),
            Self::Weight(name, weight) => write!(f, "weight={name}*{weight}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn a_name() -> impl Strategy<Value = Arc<str>> {
        "[a-z0-9._:-]{1,12}".prop_map(Arc::from)
    }

    fn a_time() -> impl Strategy<Value = Duration> {
        (1u64..1_000_000_000_000).prop_map(Duration::from_nanos)
    }

    fn a_service() -> impl Strategy<Value = ServiceTime> {
        prop_oneof![
            a_time().prop_map(ServiceTime::Fixed),
            a_time().prop_map(ServiceTime::Exponential),
            (a_time(), 1.01f64..100.0).prop_map(|(mean, alpha)| ServiceTime::Pareto { mean, alpha }),
        ]
    }

    fn a_change() -> impl Strategy<Value = BackendChange<Arc<str>>> {
        prop_oneof![
            a_name().prop_map(BackendChange::Down),
            a_name().prop_map(BackendChange::Up),
            a_name().prop_map(BackendChange::Leave),
            (a_name(), 0u32..=256).prop_map(|(name, weight)| BackendChange::Join(name, weight)),
            (a_name(), 0u32..=256).prop_map(|(name, weight)| BackendChange::Weight(name, weight)),
        ]
    }

    fn reparsed<T: FromStr<Err = String> + Display>(value: &T) -> T {
        value.to_string().parse().unwrap()
    }

    proptest! {
        #[test]
        fn what_is_printed_is_parsed_again(
            name in a_name(), weight in 0u32..=256, service in a_service(), number in 1u32..1_000_000,
            exponent in 0.0f64..10.0, change in a_change(), for_one in any::<bool>(),
        ) {
            let share = BackendSpec { name: Arc::clone(&name), weight };
            prop_assert_eq!(&reparsed(&share), &share);
            let backend = for_one.then_some(name);
            let setting = Setting { backend: backend.clone(), value: service };
            prop_assert_eq!(&reparsed(&setting), &setting);
            let setting = Setting { backend, value: Servers::Number(number) };
            prop_assert_eq!(&reparsed(&setting), &setting);
            prop_assert_eq!(reparsed(&Arrivals::Bursts(number)), Arrivals::Bursts(number));
            let clients = Clients { number, exponent };
            prop_assert_eq!(reparsed(&clients), clients);
            prop_assert_eq!(&reparsed(&change), &change);
        }

        /// From the letters of the notation, so that inputs get past the first check.
        #[test]
        fn any_text_is_parsed_or_refused_with_a_reason(text in "[a-e0-9=*:,.%/-]{0,12}|\\PC{0,12}|(fixed|exp|pareto|bursts|down|9:zipf)[=:]\\PC{0,9}") {
            let refusals = [
                text.parse::<BackendSpec>().err(), text.parse::<Setting<ServiceTime>>().err(),
                text.parse::<Setting<Servers>>().err(), text.parse::<Arrivals>().err(),
                text.parse::<Clients>().err(), changes(&text).err(), rate(&text).err(), load(&text).err(),
                time(&text).err(),
            ];
            prop_assert!(refusals.iter().flatten().all(|refusal| refusal.len() > 20));
        }
    }

    #[test]
    fn optional_parts_have_defaults() {
        assert_eq!("a".parse(), Ok(BackendSpec { name: "a".into(), weight: 1 }));
        let pareto = ServiceTime::Pareto { mean: Duration::from_millis(10), alpha: 1.5 };
        assert_eq!("pareto:10ms".parse(), Ok(pareto));
        assert_eq!("bursts".parse(), Ok(Arrivals::Bursts(100)));
        assert_eq!("9:zipf".parse(), Ok(Clients { number: 9, exponent: 1.0 }));
        assert_eq!(
            changes("join=d,down=a"),
            Ok(vec![BackendChange::Join("d".into(), 1), BackendChange::Down("a".into())])
        );
        assert_eq!(
            (rate("90"), rate("90/s"), rate("90/m")),
            (Ok(Intensity::Rate(90.0)), Ok(Intensity::Rate(90.0)), Ok(Intensity::Rate(1.5)),)
        );
        assert_eq!(load("70%"), Ok(Intensity::Load(0.7)));
    }

    #[test]
    fn an_error_shows_the_wrong_input_and_an_example() {
        for (refusal, parts) in [
            ("a*999".parse::<BackendSpec>().err(), ["999", "a*3"]),
            ("a b".parse::<BackendSpec>().err(), ["a b", "letters"]),
            ("expo:1s".parse::<ServiceTime>().err(), ["expo:1s", "exp:10ms"]),
            ("exp:soon".parse::<ServiceTime>().err(), ["soon", "10ms"]),
            ("pareto:1s:1".parse::<ServiceTime>().err(), ["\"1\"", "1.01"]),
            ("0".parse::<Servers>().err(), ["\"0\"", "unlimited"]),
            ("burst".parse::<Arrivals>().err(), ["burst", "poisson"]),
            ("zipf:10".parse::<Clients>().err(), ["zipf:10", "1000:zipf"]),
            (changes("dwon=b").err(), ["dwon=b", "down=NAME"]),
            (changes("weight=b").err(), ["weight=b", "weight=NAME*WEIGHT"]),
            (rate("10/x").err(), ["10/x", "1000/s"]),
            (load("70").err(), ["70", "70%"]),
            (time("0s").err(), ["0s", "1ns"]),
        ] {
            let refusal = refusal.unwrap();
            assert!(parts.iter().all(|part| refusal.contains(part)), "{refusal}");
        }
    }
}
