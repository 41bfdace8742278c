use super::super::tests::observed;
use super::*;
use crate::config;
use crate::domain::{AdminState, BackendState, CheckFailure, Failure, SetBy};
use crate::health::CheckError;
use crate::own::OwnAddresses;
use crate::pool::input::{Command, Input};

fn found(name: &str, last: u8) -> Found {
    Found::new(name.into(), SocketAddress::Tcp(([10, 0, 0, last], 80).into()))
}

/// A pool with one check and one DNS source.
fn pool(settings: &str) -> PoolState {
    let text = format!(
        "listeners: {{web: {{bind: 127.0.0.1:0, pool: web}}}}\n\
         pools: {{web: {{discover: [{{dns: backend:80}}], health: {{tcp: {{}}, fall: 2}}{settings}}}}}"
    );
    let config: config::Config = config::parse("test", &text, &|_| None).unwrap();
    PoolState::new(
        "web".into(),
        config.pools.get("web").unwrap().clone(),
        OwnAddresses::new(Vec::new()).into(),
    )
}

fn observe(pool: &mut PoolState, all: &[Found], now: Instant) {
    let source = SourceKey::from(&pool.config.discover[0]);
    pool.on(observed(source, all.to_vec()), now);
}

fn states(pool: &PoolState) -> Vec<(String, BackendState, String)> {
    let state =
        |member: &Member| (member.backend.name.to_string(), member.state, member.reason.text().to_string());
    pool.members().iter().map(state).collect()
}

#[test]
fn a_backend_has_the_verdict_of_the_process_before_from_the_first_moment() {
    let now = Instant::now();
    let mut before = pool("");
    observe(&mut before, &[found("a", 1), found("b", 2), found("c", 3), found("d", 4)], now);
    let keys: Vec<_> = before.members().iter().map(|member| member.backend.key).collect();
    before.on(Input::Checked(keys[0], 0, Ok(())), now);
    before.on(Input::Checked(keys[1], 0, Err(CheckError::Failed(CheckFailure::new("refused")))), now);
    before.on(Input::Checked(keys[3], 0, Ok(())), now);
    let by = SetBy::now("an operator".into());
    before.on(Input::Command(keys[3], Command::SetAdminState(AdminState::Draining), by), now);
    before.on(Input::Added(found("e", 5)), now);
    let later = now + Duration::from_secs(60);
    let handed = before.hand_over(later);
    // It travels as JSON.
    let handed: PoolHandOver = serde_json::from_str(&serde_json::to_string(&handed).unwrap()).unwrap();

    let mut after = pool(", slow_start: 30s");
    after.restore(handed.settings);
    after.take_over(handed.health, later);
    for added in handed.added {
        after.on(Input::Added(added.into()), later);
    }
    // Another name at the address of a: it is another backend, of which nothing is known.
    observe(&mut after, &[found("b", 2), found("c", 3), found("d", 4), found("x", 1)], later);
    let is = |name: &str, state, reason: &str| (name.to_owned(), state, reason.to_owned());
    let down = "taken over from the process before: its first check failed: refused";
    assert_eq!(
        states(&after),
        [
            is("e", BackendState::Joining, "found in what operators added"),
            is("b", BackendState::Down, down),
            is("c", BackendState::Joining, "found in dns backend:80"),
            is("d", BackendState::Draining, &after.members()[3].reason.text()),
            is("x", BackendState::Joining, "found in dns backend:80"),
        ]
    );
    assert!(!after.settled(), "c was never checked");

    // Without the stranger, a is up at once, with its full share.
    let mut after = pool(", slow_start: 30s");
    after.take_over(before.hand_over(later).health, later);
    observe(&mut after, &[found("a", 1)], later);
    let up = "taken over from the process before: its first check passed";
    assert_eq!(states(&after), [is("a", BackendState::Up, up)]);
    assert_eq!(after.members()[0].ramp(Duration::from_secs(30), later).0, crate::pool::member::STEPS);
    assert!(after.settled());
    // From here on its own checks decide.
    let key = after.members()[0].backend.key;
    for _ in 0..2 {
        after.on(Input::Checked(key, 0, Err(CheckError::Failed(CheckFailure::new("refused")))), later);
    }
    assert_eq!(after.members()[0].state, BackendState::Down);
}

#[test]
fn an_ejected_backend_stays_ejected_for_the_rest_of_its_time() {
    let now = Instant::now();
    let settings = ", eject: {failures: 1, for: 10s, at_most: 50%}";
    let mut before = pool(settings);
    let all = [found("a", 1), found("b", 2)];
    observe(&mut before, &all, now);
    let keys: Vec<_> = before.members().iter().map(|member| member.backend.key).collect();
    for key in &keys {
        before.on(Input::Checked(*key, 0, Ok(())), now);
    }
    before.on(Input::Failed(keys[0], Failure::Reset, 1), now);
    assert_eq!(before.members()[0].state, BackendState::Ejected);
    let cause = before.members()[0].reason.text();
    let handed = before.hand_over(now + Duration::from_secs(4));
    let handed: PoolHandOver = serde_json::from_str(&serde_json::to_string(&handed).unwrap()).unwrap();

    let mut after = pool(settings);
    after.take_over(handed.health.clone(), now);
    observe(&mut after, &all, now);
    let is = |state, cause: &str| ("a".to_owned(), state, cause.to_owned());
    let taken_over = is(BackendState::Ejected, &format!("taken over from the process before: {cause}"));
    assert_eq!(states(&after)[0], taken_over);
    assert_eq!(after.members()[1].state, BackendState::Up);
    after.on(Input::Tick, now + Duration::from_millis(5900));
    assert_eq!(states(&after)[0], taken_over);
    after.on(Input::Tick, now + Duration::from_secs(6));
    assert_eq!(states(&after)[0], is(BackendState::Up, "its ejection time is over"));

    // Nor is it longer if its source answers late.
    let mut after = pool(settings);
    after.take_over(handed.health.clone(), now);
    observe(&mut after, &all, now + Duration::from_secs(3));
    assert_eq!(states(&after)[0], taken_over);
    after.on(Input::Tick, now + Duration::from_secs(6));
    assert_eq!(after.members()[0].state, BackendState::Up);

    // The limit of ejections is that of the new configuration.
    let mut after = pool("");
    after.take_over(handed.health, now);
    observe(&mut after, &all, now);
    assert_eq!(after.members()[0].state, BackendState::Up);
}

#[test]
fn an_ejected_backend_that_is_found_before_the_others_stays_ejected() {
    let now = Instant::now();
    let settings = ", eject: {failures: 1, for: 10s, at_most: 50%}";
    let mut before = pool(settings);
    observe(&mut before, &[found("a", 1), found("b", 2)], now);
    before.on(Input::Added(found("added", 3)), now);
    let keys: Vec<_> = before.members().iter().map(|member| member.backend.key).collect();
    for key in &keys {
        before.on(Input::Checked(*key, 0, Ok(())), now);
    }
    before.on(Input::Failed(keys[2], Failure::Reset, 1), now);
    let handed = before.hand_over(now);

    let mut after = pool(settings);
    after.take_over(handed.health, now);
    for added in handed.added {
        after.on(Input::Added(added.into()), now);
    }
    assert_eq!(after.members()[0].state, BackendState::Ejected, "{:?}", states(&after));
    observe(&mut after, &[found("a", 1), found("b", 2)], now);
    let all: Vec<_> = after.members().iter().map(|member| member.state).collect();
    assert_eq!(all, [BackendState::Ejected, BackendState::Up, BackendState::Up]);
}

#[test]
fn a_verdict_about_a_backend_that_no_source_reports_is_forgotten() {
    let now = Instant::now();
    let mut before = pool("");
    observe(&mut before, &[found("a", 1)], now);
    let key = before.members()[0].backend.key;
    before.on(Input::Checked(key, 0, Ok(())), now);
    let mut after = pool("");
    after.take_over(before.hand_over(now).health, now);
    observe(&mut after, &[found("b", 2)], now);
    observe(&mut after, &[found("a", 1), found("b", 2)], now);
    assert_eq!(after.members()[1].state, BackendState::Joining, "{:?}", states(&after));
}
