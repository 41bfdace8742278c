//! Models of `src/balance/load.rs`: no change of a load is lost to the picker, and no limit is exceeded.

use std::num::NonZeroU32;
use std::sync::Arc;

use shuttle::thread;

use super::Load;
use super::load::{DirtySet, set_bits};

/// A picker's copy of the loads, as `src/balance/least_connections.rs` keeps one.
struct Picker {
    loads: Vec<Arc<Load>>,
    dirty: Arc<DirtySet>,
    copies: Vec<u32>,
}

impl Picker {
    fn new(loads: &[Arc<Load>]) -> Self {
        let dirty = Arc::new(DirtySet::new(loads.len()));
        for (index, load) in loads.iter().enumerate() {
            load.report_to(&dirty, index);
        }
        Self {
            loads: loads.to_vec(),
            dirty,
            copies: loads.iter().map(|load| load.effective_load()).collect(),
        }
    }

    fn refresh(&mut self) {
        self.dirty.drain(|first, bits| {
            for index in set_bits(bits).map(|bit| first + bit) {
                self.copies[index] = self.loads[index].effective_load();
            }
        });
    }

    fn assert_is_current(&mut self) {
        self.refresh();
        let loads: Vec<_> = self.loads.iter().map(|load| load.effective_load()).collect();
        assert_eq!(self.copies, loads, "a change was not marked");
    }
}

/// Two loads whose marks are in different words, which two workers change while a picker reads them.
pub fn a_picker_learns_of_every_change() {
    let loads: Vec<_> = (0..65).map(|_| Arc::new(Load::default())).collect();
    let mut picker = Picker::new(&loads);
    let workers: Vec<_> = [[0, 64], [64, 64]]
        .map(|path| {
            let [first, second] = path.map(|index: usize| Arc::clone(&loads[index]));
            thread::spawn(move || {
                let lease = first.lease();
                let penalty = second.penalize();
                drop(lease);
                (second.lease(), penalty)
            })
        })
        .into_iter()
        .collect();
    picker.refresh();
    picker.refresh();
    let held: Vec<_> = workers.into_iter().map(|worker| worker.join().unwrap()).collect();
    picker.assert_is_current();
    drop(held);
    picker.assert_is_current();
    assert!(picker.copies.iter().all(|load| *load == 0));
}

/// Two workers mark the same load; the change of the one that ends first is seen.
pub fn a_change_is_known_although_another_worker_is_marking_the_same_load() {
    let loads = [Arc::new(Load::default())];
    let mut picker = Picker::new(&loads);
    let [first, second] = [(); 2].map(|()| {
        let load = Arc::clone(&loads[0]);
        thread::spawn(move || load.lease())
    });
    let held = first.join().unwrap();
    picker.refresh();
    assert!(picker.copies[0] >= 1, "a change was not marked");
    let both = (held, second.join().unwrap());
    picker.assert_is_current();
    drop(both);
}

/// A worker changes a load while the first picker is built, and while another one replaces that.
pub fn a_new_picker_learns_of_every_change() {
    let loads = [Arc::new(Load::default())];
    let load = Arc::clone(&loads[0]);
    let worker = thread::spawn(move || {
        drop(load.lease());
        load.lease()
    });
    let mut first = Picker::new(&loads);
    first.refresh();
    let mut second = Picker::new(&loads);
    second.refresh();
    let held = worker.join().unwrap();
    second.assert_is_current();
    drop(held);
    second.assert_is_current();
}

/// Three workers, a limit of one connection.
pub fn no_limit_is_exceeded() {
    let (load, limit) = (Arc::new(Load::default()), NonZeroU32::MIN);
    let workers: Vec<_> = (0..3)
        .map(|_| {
            let load = Arc::clone(&load);
            thread::spawn(move || {
                for _ in 0..2 {
                    let lease = load.lease_within(limit);
                    assert!(load.open() <= 1);
                    drop(lease);
                }
            })
        })
        .collect();
    for worker in workers {
        worker.join().unwrap();
    }
    assert_eq!(load.open(), 0);
    assert!(load.lease_within(limit).is_some());
}
