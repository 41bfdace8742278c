//! Which backends have more connections than their share.

/// A backend with its open connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Occupied {
    /// Its open connections.
    pub open: u32,
    /// Its weight, relative to that of the others.
    pub weight: u32,
}

/// For each backend, how many of its connections are to be moved: those above its share by more than the part `tolerance`,
/// as far as other backends have fewer than theirs.
pub fn surplus(backends: &[Occupied], tolerance: f64) -> Vec<u32> {
    let total: f64 = backends.iter().map(|backend| f64::from(backend.open)).sum();
    let weights: f64 = backends.iter().map(|backend| f64::from(backend.weight)).sum();
    let share =
        |backend: &Occupied| if weights > 0.0 { total * f64::from(backend.weight) / weights } else { total };
    let above = |backend: &Occupied| {
        // Rounding must not begin it: 100 × 1.1 is a little more than 110.
        let most = share(backend) * (1.0 + tolerance) + 1e-6;
        // Down to its share: at the border of the tolerance, the next connection would begin it again.
        if f64::from(backend.open) > most { f64::from(backend.open) - share(backend).ceil() } else { 0.0 }
    };
    let below = |backend: &Occupied| (share(backend).floor() - f64::from(backend.open)).max(0.0);
    let above: Vec<f64> = backends.iter().map(above).collect();
    let (all, room) = (above.iter().sum::<f64>(), backends.iter().map(below).sum::<f64>());
    let part = if all > 0.0 { (room / all).min(1.0) } else { 0.0 };
    above.into_iter().map(|above| (above * part).ceil() as u32).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn of(all: &[(u32, u32)], tolerance: f64) -> Vec<u32> {
        let backends: Vec<_> =
            all.iter().map(|(open, weight)| Occupied { open: *open, weight: *weight }).collect();
        surplus(&backends, tolerance)
    }

    #[test]
    fn a_new_backend_gets_its_share_from_the_others() {
        assert_eq!(of(&[(150, 1), (150, 1), (0, 1)], 0.1), [50, 50, 0]);
        assert_eq!(of(&[(300, 3), (0, 1)], 0.1), [75, 0]);
        assert_eq!(of(&[(100, 1), (100, 1), (100, 1)], 0.1), [0, 0, 0]);
    }

    #[test]
    fn within_the_tolerance_nothing_moves() {
        assert_eq!(of(&[(109, 1), (91, 1)], 0.1), [0, 0]);
        assert_eq!(of(&[(111, 1), (89, 1)], 0.1), [11, 0]);
        assert_eq!(of(&[(2, 1), (1, 1), (0, 1)], 0.0), [1, 0, 0]);
        for few in [&[][..], &[(7, 1)], &[(1, 1), (0, 1)], &[(7, 0), (0, 0)]] {
            assert_eq!(of(few, 0.1).iter().sum::<u32>(), 0, "{few:?}");
        }
    }

    proptest! {
        #[test]
        fn backends_keep_their_share_and_no_more_moves_than_others_have_room_for(
            all in proptest::collection::vec((0_u32..10_000, 1_u32..257), 1..30), tolerance in 0.0..1.0_f64,
        ) {
            let surplus = of(&all, tolerance);
            let total: f64 = all.iter().map(|(open, _)| f64::from(*open)).sum();
            let weights: f64 = all.iter().map(|(_, weight)| f64::from(*weight)).sum();
            let mut room = 0.0;
            for ((open, weight), surplus) in all.iter().zip(&surplus) {
                let share = total * f64::from(*weight) / weights;
                prop_assert!(*surplus == 0 || f64::from(open - surplus) >= share.floor(), "{open} {surplus} {share}");
                room += (share.floor() - f64::from(*open)).max(0.0);
            }
            // Each is rounded up.
            prop_assert!(f64::from(surplus.iter().sum::<u32>()) <= room + all.len() as f64);
        }
    }
}
