//! Each bound of a budget, and what a charge holds.

use super::{
    Bounds, Budget, Budgets, Charge, Exhausted, Network, OUTPUT_STEP_BYTES, OutputCharge, Payer,
    mib,
};
use crate::base::threads::lock;

const BOUNDS: Bounds = Bounds {
    total: 100,
    network: 60,
    anonymous: 80,
};

fn from(address: &str, has_credentials: bool) -> Payer {
    let network = Network::of(address.parse().unwrap());
    Payer {
        network,
        has_credentials,
    }
}

#[test]
fn each_of_the_three_bounds_refuses_by_itself() {
    let budget = Budget::new("bytes", BOUNDS);
    let (a, b) = (from("10.0.0.1", false), from("10.0.0.2", false));
    let known = from("10.0.0.3", true);
    let first = budget.charge(a, 60).unwrap();
    assert_eq!(budget.charge(a, 1).err(), Some(Exhausted::Network));
    let second = budget.charge(b, 20).unwrap();
    assert_eq!(budget.charge(b, 1).err(), Some(Exhausted::Anonymous));
    let third = budget.charge(known, 20).unwrap();
    assert_eq!(budget.charge(known, 1).err(), Some(Exhausted::Total));
    assert_eq!((budget.used(), budget.refused()), (100, 3));
    drop((first, second, third));
    assert_eq!(budget.used(), 0);
    assert!(lock(&budget.used).networks.is_empty());
    assert_eq!(lock(&budget.used).anonymous, 0);
}

/// Half of one socket was none: a server with `MAX_SOCKETS=1` refused all.
#[test]
fn the_smallest_numbers_leave_something_to_each() {
    for (sockets, share) in [(1, 1), (2, 1), (3, 2)] {
        let budgets = Budgets::new(sockets, 1, 1);
        let stranger = from("10.0.0.1", false);
        let granted: Vec<Charge> = (0..4)
            .map_while(|_| budgets.sockets.charge(stranger, 1).ok())
            .collect();
        assert_eq!(granted.len(), share);
        for budget in budgets.all() {
            let Bounds {
                total,
                network,
                anonymous,
            } = budget.bounds;
            assert!(0 < network.min(anonymous), "{}", budget.name);
            assert!(network.max(anonymous) <= total, "{}", budget.name);
        }
    }
}

#[test]
fn a_refused_growth_leaves_the_charge_as_it_was() {
    let budget = Budget::new("bytes", BOUNDS);
    let payer = from("10.0.0.1", true);
    let mut charge = budget.charge(payer, 50).unwrap();
    assert_eq!(charge.grow(11), Err(Exhausted::Network));
    assert_eq!(charge.grow(u64::MAX), Err(Exhausted::Total));
    assert_eq!(charge.amount, 50);
    charge.grow(10).unwrap();
    charge.shrink_to(5);
    assert_eq!((charge.amount, budget.used()), (5, 5));
}

#[test]
fn a_charge_follows_who_signs_in_and_out() {
    let budget = Budget::new("bytes", BOUNDS);
    let mut charge = budget.charge(from("10.0.0.1", false), 50).unwrap();
    charge.set_has_credentials(true).unwrap();
    charge.set_has_credentials(true).unwrap();
    assert_eq!(lock(&budget.used).anonymous, 0);
    let other = budget.charge(from("10.0.0.2", false), 40).unwrap();
    assert_eq!(charge.set_has_credentials(false), Err(Exhausted::Anonymous));
    assert_eq!(lock(&budget.used).anonymous, 40);
    drop(other);
    charge.set_has_credentials(false).unwrap();
    assert_eq!(lock(&budget.used).anonymous, 50);
    drop(charge);
    assert_eq!((budget.used(), lock(&budget.used).anonymous), (0, 0));
}

#[test]
fn an_answer_is_charged_in_steps_and_given_back_with_its_last_copy() {
    let bounds = Bounds {
        total: 3 * OUTPUT_STEP_BYTES,
        ..mib(1, 1, 1)
    };
    let budget = Budget::new("bytes", bounds);
    let output = OutputCharge::new(&budget, from("10.0.0.1", true));
    output.reach(64 << 10).unwrap();
    assert_eq!(budget.used(), 0);
    output.reach((64 << 10) + 1).unwrap();
    let copy = output.clone();
    copy.reach(256 << 10).unwrap();
    assert_eq!(budget.used(), 256 << 10);
    copy.reach((512 << 10) + 1).unwrap();
    assert!(output.reach((768 << 10) + 1).is_err());
    // A length that is already charged needs no lock.
    let held = lock(&output.0.as_ref().unwrap().charge);
    copy.reach(768 << 10).unwrap();
    drop(held);
    assert_eq!(budget.used(), 768 << 10);
    drop(output);
    assert_eq!(budget.used(), 768 << 10);
    drop(copy);
    assert_eq!((budget.used(), budget.take_peak()), (0, 768 << 10));
    assert_eq!(budget.take_peak(), 0);
    OutputCharge::default().reach(usize::MAX).unwrap();
}

#[test]
fn neighbours_in_one_network_are_one_payer() {
    let of = |text: &str| Network::of(text.parse().unwrap());
    assert_eq!(of("2001:db8::1"), of("2001:db8::ffff"));
    assert_ne!(of("2001:db8:0:1::1"), of("2001:db8::1"));
    assert_eq!(of("::ffff:10.0.0.1"), of("10.0.0.1"));
}

#[test]
fn many_threads_give_back_all_that_they_take() {
    let budget = Budget::new("bytes", BOUNDS);
    std::thread::scope(|scope| {
        for at in 0..8 {
            let budget = &budget;
            scope.spawn(move || {
                let payer = from(&format!("10.0.0.{}", at % 3), at % 2 == 0);
                for amount in 0..2000 {
                    let charge = budget.charge(payer, amount % 40);
                    assert!(budget.used() <= BOUNDS.total);
                    drop(charge);
                }
            });
        }
    });
    assert_eq!(budget.used(), 0);
    assert!(lock(&budget.used).networks.is_empty());
}
