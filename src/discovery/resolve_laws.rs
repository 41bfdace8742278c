//! Laws of reading DNS responses that hold for any bytes. Property tests and the fuzzer (`tests/fuzz`) assert them.

use hickory_resolver::proto::rr::rdata;

use super::super::srv;
use super::*;
use crate::config::is_backend_name;

/// Asserts the laws for a response with these bytes.
///
/// # Panics
/// If a law does not hold.
pub fn check(bytes: &[u8]) {
    let Ok(response) = DnsResponse::from_buffer(bytes.to_vec()) else { return };
    // As the library does with every response.
    let response = match DnsError::from_response(response) {
        Ok(response) => response,
        Err(error) => {
            let answer: DnsAnswer<()> = failure(error.into());
            assert!(
                !matches!(answer, DnsAnswer::Records(()) | DnsAnswer::Timeout),
                "{bytes:?} is {answer:?}"
            );
            return;
        }
    };
    let targets: Vec<&rdata::SRV> = response
        .answers
        .iter()
        .filter_map(|record| if let RData::SRV(srv) = &record.data { Some(srv) } else { None })
        .collect();
    match srv_records(&response.answers, &response.additionals, response.response_code) {
        DnsAnswer::Records(found) => check_targets(&targets, &found),
        answer => assert!(targets.is_empty(), "{bytes:?} is {answer:?}"),
    }
    match owner(&response) {
        AddressOwner::Named(names) => {
            assert!(!names.is_empty() && !names.iter().any(|name| name.eq_ignore_ascii_case("localhost")));
        }
        AddressOwner::Nameless | AddressOwner::Unknown => {}
    }
}

/// Asserts that each record has its target under a name that leads there, and that its backends are valid.
fn check_targets(targets: &[&rdata::SRV], found: &SrvRecords) {
    assert_eq!(found.records.len(), targets.len());
    for (record, srv) in found.records.iter().zip(targets) {
        assert_eq!(record.target.is_empty(), srv.target.is_root(), "{srv}");
        assert_eq!(found.names.get(&record.target), Some(&srv.target), "the target of {srv}");
    }
    let addresses = BTreeSet::from([IpAddr::from([192, 0, 2, 1]), IpAddr::from([192, 0, 2, 2])]);
    for backend in srv::backends(&found.records, |_| Some(&addresses)) {
        assert!((1..=256).contains(&backend.weight) && backend.tier < 16, "{backend:?}");
        let name = super::super::vetted::valid_name(&backend.name);
        assert!(is_backend_name(&name), "{:?} becomes {name:?}", backend.name);
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn any_response_is_understood_or_refused() {
        crate::testing::corpus::hold("dns", super::check);
    }
}
