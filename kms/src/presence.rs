//! Whether the devices hold the keys of the table.

use assent_consensus::name::Name;

use crate::device::{Device, DeviceError, Devices};
use crate::pins::KeyState;
use crate::store::KeyRow;

/// How a device differs from the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Difference {
    /// It does not hold the key.
    Missing,
    /// It holds another key in this one's place.
    Other,
    /// The configuration does not have it.
    NoDevice,
}

/// What the devices that are there do not hold as the table says, but for destroyed keys.
///
/// # Errors
/// [`DeviceError`]
pub(crate) async fn differences(
    devices: &Devices,
    rows: &[KeyRow],
) -> Result<Vec<(KeyRow, Difference)>, DeviceError> {
    let mut differences = Vec::new();
    for (name, pool) in devices.present() {
        let rows: Vec<KeyRow> = rows.iter().filter(|row| row.device == *name).cloned().collect();
        differences.extend(pool.run_slow(move |device| compare(&rows, device)).await?);
    }
    let is_configured = |device: &Name| devices.iter().any(|(name, _)| name == device);
    let is_homeless = |row: &&KeyRow| row.state != KeyState::Destroyed && !is_configured(&row.device);
    let homeless = rows.iter().filter(is_homeless);
    differences.extend(homeless.map(|row| (row.clone(), Difference::NoDevice)));
    Ok(differences)
}

fn compare(rows: &[KeyRow], device: &mut dyn Device) -> Result<Vec<(KeyRow, Difference)>, DeviceError> {
    let mut differences = Vec::new();
    for row in rows.iter().filter(|row| row.state != KeyState::Destroyed) {
        match device.public_key(row.object)? {
            Some(key) if key == *row.public_key.public_key() => {}
            Some(_) => differences.push((row.clone(), Difference::Other)),
            None => differences.push((row.clone(), Difference::Missing)),
        }
    }
    Ok(differences)
}

#[cfg(test)]
mod tests {
    use assent_consensus::operational_key::KeyKind;

    use super::*;
    use crate::testing::SmallKms;

    #[tokio::test]
    async fn a_key_that_the_token_does_not_hold_is_reported_and_one_of_a_token_that_is_gone_is_not() {
        let kms = SmallKms::new().await;
        let (rows, mut token) = (kms.pins.keys(), kms.token.clone());
        assert_eq!(compare(&rows, &mut token), Ok(vec![]));
        token.token().is_gone = true;
        assert!(compare(&rows, &mut token).expect_err("no answer").is_lost());
        token.token().is_gone = false;
        let key = token.token().keys.remove(&rows[0].object);
        assert_eq!(compare(&rows, &mut token), Ok(vec![(rows[0].clone(), Difference::Missing)]));
        token.token().keys.insert(rows[0].object, key.clone().expect("it was there"));
        assert_eq!(compare(&rows, &mut token), Ok(vec![]));
        let (second, _) = token.generate("another", KeyKind::P256).expect("generated");
        let another = token.token().keys[&second].clone();
        token.token().keys.insert(rows[0].object, another);
        assert_eq!(compare(&rows, &mut token), Ok(vec![(rows[0].clone(), Difference::Other)]));
        assert!(key.is_some());
        let destroyed = KeyRow { state: KeyState::Destroyed, ..rows[0].clone() };
        assert_eq!(compare(&[destroyed], &mut token), Ok(vec![]));
    }
}
