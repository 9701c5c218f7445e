//! `blockIO`.

use oci_spec::runtime::{LinuxBlockIo, LinuxThrottleDevice};

use super::{Missing, ResourceError, Setting, Settings};

pub(super) fn settings(io: &LinuxBlockIo, out: &mut Settings) -> Result<(), ResourceError> {
    out.ignore(io.leaf_weight().is_some_and(|weight| weight != 0), "blockIO.leafWeight");
    if let Some(weight) = io.weight().filter(|weight| *weight != 0) {
        out.push(weigh("blockIO.weight".to_owned(), "default", weight)?);
    }
    for (index, device) in io.weight_device().iter().flatten().enumerate() {
        let at = format!("blockIO.weightDevice[{index}]");
        if let Some(weight) = device.weight().filter(|weight| *weight != 0) {
            let name = format!("{}:{}", device.major(), device.minor());
            out.push(weigh(format!("{at}.weight"), &name, weight)?);
        }
        let leaf = device.leaf_weight().is_some_and(|weight| weight != 0);
        out.ignore(leaf, "blockIO.weightDevice.leafWeight");
    }
    let limits = [
        ("rbps", "throttleReadBpsDevice", io.throttle_read_bps_device()),
        ("wbps", "throttleWriteBpsDevice", io.throttle_write_bps_device()),
        ("riops", "throttleReadIOPSDevice", io.throttle_read_iops_device()),
        ("wiops", "throttleWriteIOPSDevice", io.throttle_write_iops_device()),
    ];
    for (key, name, devices) in limits {
        for (index, device) in devices.iter().flatten().enumerate() {
            out.push(throttle(key, format!("blockIO.{name}[{index}]"), device));
        }
    }
    Ok(())
}

/// The BFQ scheduler has the scale of config.json (10..=1000), the kernel's own one 1..=10000.
fn weigh(field: String, whose: &str, weight: u16) -> Result<Setting, ResourceError> {
    if !(10..=1000).contains(&weight) {
        return Err(ResourceError::new(field, "must be 10 to 1000"));
    }
    let converted = 1 + (u64::from(weight) - 10) * 9_999 / 990;
    let mut setting = Setting::new(field, "io.bfq.weight", format!("{whose} {weight}"));
    setting.missing = Missing::Instead("io.weight".to_owned(), format!("{whose} {converted}"));
    Ok(setting)
}

/// A rate of 0 lifts the limit.
fn throttle(key: &str, field: String, device: &LinuxThrottleDevice) -> Setting {
    let lift = device.rate() == 0;
    let rate = if lift { "max".to_owned() } else { device.rate().to_string() };
    let value = format!("{}:{} {key}={rate}", device.major(), device.minor());
    Setting::new(field, "io.max", value).fine_without_if(lift)
}

#[cfg(test)]
mod tests {
    use super::super::tests::{all, error, of};
    use super::*;
    use serde_json::json;

    #[test]
    fn weights_have_two_scales() {
        let io = json!({"weight": 500, "weightDevice": [{"major": 8, "minor": 0, "weight": 10}]});
        let settings = all(json!({"blockIO": io})).unwrap().list;
        let values: Vec<_> = settings.iter().map(|set| (&*set.value, &set.missing)).collect();
        let instead = |value: &str| Missing::Instead("io.weight".into(), value.into());
        assert_eq!(values[0], ("default 500", &instead("default 4950")));
        assert_eq!(values[1], ("8:0 10", &instead("8:0 1")));
        assert!(error(json!({"blockIO": {"weight": 5}})).contains("blockIO.weight: "));
    }

    #[test]
    fn each_device_has_its_limits() {
        let device = |rate: u64| json!([{"major": 8, "minor": 16, "rate": rate}]);
        let got = of(json!({"blockIO": {
            "throttleReadBpsDevice": device(1), "throttleWriteBpsDevice": device(2),
            "throttleReadIOPSDevice": device(3), "throttleWriteIOPSDevice": device(0),
        }}));
        let lines = ["8:16 rbps=1", "8:16 wbps=2", "8:16 riops=3", "8:16 wiops=max"];
        assert_eq!(got, lines.map(|line| format!("io.max={line}")));
    }
}
