# SPDX-License-Identifier: GPL-2.0-or-later
"""The vectors of FIPS 197 and RFC 4493."""

from __future__ import annotations

import pytest

from stack.lib.aes import cmac, encrypt_block, expand_key

KEY = bytes.fromhex("2b7e151628aed2a6abf7158809cf4f3c")
MESSAGE = bytes.fromhex(
    "6bc1bee22e409f96e93d7e117393172aae2d8a571e03ac9c9eb76fac45af8e51"
    "30c81c46a35ce411e5fbc1191a0a52eff69f2445df4f9b17ad2b417be66c3710"
)


def test_key_schedule_of_fips_197_appendix_a() -> None:
    assert expand_key(KEY)[-1] == 0xB6630CA6


def test_cipher_of_fips_197_appendices_b_and_c() -> None:
    assert (
        encrypt_block(expand_key(KEY), 0x3243F6A8885A308D313198A2E0370734)
        == 0x3925841D02DC09FBDC118597196A0B32
    )
    schedule = expand_key(bytes(range(16)))
    assert encrypt_block(schedule, 0x00112233445566778899AABBCCDDEEFF) == 0x69C4E0D86A7B0430D8CDB78070B4C55A


@pytest.mark.parametrize(
    ("length", "mac"),
    [
        (0, "bb1d6929e95937287fa37d129b756746"),
        (16, "070a16b46b4d4144f79bdd9dd04a287c"),
        (40, "dfa66747de9ae63030ca32611497c827"),
        (64, "51f0bebf7e3b9d92fc49741779363cfe"),
    ],
)
def test_cmac_of_rfc_4493(length: int, mac: str) -> None:
    assert cmac(KEY, MESSAGE[:length]).hex() == mac


def test_key_of_another_length_is_refused() -> None:
    with pytest.raises(ValueError, match="16 bytes, this one has 15"):
        expand_key(KEY[:15])
