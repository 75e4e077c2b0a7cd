"""Assertions of the contract explain themselves as those of tests do."""

import pytest

pytest.register_assert_rewrite(
    "eventsrc.storage.contract", "eventsrc.storage.contract_reading", "eventsrc.storage.contract_writing"
)
