//! What every device must do, whatever drives it and whoever made it: each case of [`cases`] on each device of [`devices`].

mod cases;
mod devices;
mod probe;

macro_rules! on {
    ($device:ident: $($case:ident)*) => {
        mod $device {
            $(
                #[test]
                fn $case() {
                    assent_hsm_mock::with_token!("suite", |token| {
                        crate::cases::$case(&crate::devices::$device(token));
                    });
                }
            )*
        }
    };
}

macro_rules! every_case_on {
    ($($device:ident)*) => {
        $(on! {
            $device:
            a_key_that_it_makes_signs_and_is_listed
            two_keys_sign_each_for_itself
            many_sign_at_once
            a_key_is_found_again_by_another_driver
            a_key_that_is_destroyed_is_gone
            a_mark_replaces_the_one_before
            a_wrong_pin_is_tried_once
            a_key_that_is_not_there_is_named
        })*
    };
}

every_case_on! {
    softhsm
    softhsm_behind_the_fault_module
    p11_kit_proxy
    kryoptic
    yubihsm_simulator
    net_hsm
    ykcs11
    cloud_hsm
    google_kms
}
