//! Selectors of devices.

use cel::{DeviceSelector, SelectorError};
use serde_json::json;

#[test]
fn selectors_choose_devices() {
    let device = json!({
        "attributes": {
            "model": {"string": "a100"}, "index": {"int": 3}, "ready": {"bool": true}, "other.io/driver": {"version": "1.2.3"},
            "ports": {"ints": [1, 2]}},
        "capacity": {"memory": {"value": "80Gi"}, "other.io/slots": {"value": "2"}}});
    for (selector, wanted) in [
        ("device.driver == 'gpu.io'", Ok(true)),
        ("device.attributes['gpu.io'].model == 'a100'", Ok(true)),
        ("device.attributes['gpu.io'].index > 2 && device.attributes['gpu.io'].ready", Ok(true)),
        ("device.attributes['other.io'].driver.isGreaterThan(semver('1.0.0'))", Ok(true)),
        ("2 in device.attributes['gpu.io'].ports", Ok(true)),
        ("device.capacity['gpu.io'].memory.compareTo(quantity('40Gi')) >= 0", Ok(true)),
        ("cel.bind(dra, device.attributes['gpu.io'], dra.index == 3 && dra.model.startsWith('a'))", Ok(true)),
        ("'absent.io' in device.attributes", Ok(false)),
        ("'x' in device.attributes['absent.io']", Ok(false)),
        ("device.allowMultipleAllocations", Ok(false)),
        ("device.attributes['absent.io'].x == 1", Err("no such key: x")),
        (
            "device.attributes['gpu.io'].model",
            Err("CEL result of type string could not be converted to bool"),
        ),
    ] {
        let compiled = DeviceSelector::compile(selector).unwrap_or_else(|e| panic!("{selector}: {e}"));
        let answer = compiled.matches("gpu.io", &device).map_err(|e| e.to_string());
        assert_eq!(answer, wanted.map_err(String::from), "{selector}");
    }
}

#[test]
fn selectors_that_cannot_be_are_refused() {
    let why = |selector: &str| DeviceSelector::compile(selector).expect_err(selector);
    assert_eq!(why("1"), SelectorError::Invalid("must evaluate to bool or the unknown type, not int".into()));
    assert!(why("device.name == ''").to_string().contains("undefined field 'name'"));
    let many = "device.attributes.all(a, device.attributes.all(b, device.attributes.all(c, device.attributes.all(d, true))))";
    assert_eq!(why(many), SelectorError::TooComplex);
}
