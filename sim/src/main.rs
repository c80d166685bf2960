//! Scratch.
fn main() {
    use tidelock_sim::scenario::{Profile, Scenario};
    let args: Vec<u64> = std::env::args().skip(1).map(|a| a.parse().unwrap()).collect();
    let t = std::time::Instant::now();
    let (mut acked, mut att, mut del, mut virt, mut rec) = (0, 0, 0, 0, vec![]);
    let mut bad = 0;
    for seed in args[0]..args[1] {
        let scenario = Scenario::generate(Profile::Standard, seed);
        let o = tidelock_sim::run::run(&scenario, None, args.len() > 2);
        for e in &o.events {
            println!("{e}");
        }
        if args.len() > 2 {
            println!("{:#?}", scenario.faults);
            println!("healed {:?}", o.healed_ms);
        }
        acked += o.acknowledged;
        att += o.attempted;
        del += o.delivered;
        virt += o.virtual_ms;
        rec.push(o.recovery_ms.unwrap_or(99999));
        if !o.violations.is_empty() {
            bad += 1;
            if bad < 6 {
                println!("{seed}: {:?}", &o.violations[..o.violations.len().min(3)]);
            }
        }
    }
    rec.sort();
    let n = args[1] - args[0];
    println!(
        "{n} seeds {bad} bad acked {} att {} delivered {} virt {} s; rec p50 {} max {}; {:.1} seeds/s",
        acked / n,
        att / n,
        del / n,
        virt / n / 1000,
        rec[rec.len() / 2],
        rec[rec.len() - 1],
        n as f64 / t.elapsed().as_secs_f64()
    );
}
