"""
What the real packages wrote when `old.py` ran under them, with the times left out: one answered request of each, and
one that was killed.
"""

import uuid

ANSWERED, KILLED = "0c7d7f6e-6f1b-4f0a-9a51-3a5b6f1f2a10", "0c7d7f6e-6f1b-4f0a-9a51-3a5b6f1f2a11"  # keys
USER = 17
TOKEN = "aa42e04f4f6888afd7cb757dcd1f1e5b1bfff071"
BODIES = {ANSWERED: b'{"amount": 10}', KILLED: b'{"amount": 666}'}  # of POST /moved/
HEADERS = {"Vary": "Accept", "Allow": "POST, OPTIONS", "Location": "/payments/1/"}
WITH_TYPE = {**HEADERS, "Content-Type": "application/json"}

# SHA-256 of method, path and body, as two packages write it.
DIGESTS = {
    ANSWERED: bytes.fromhex("6b9e850748c29041d5558ef715189927a6109e5fd2e88ea6f893ed01ff084749"),
    KILLED: bytes.fromhex("fd514fb67459342a8a5e34ea2d3d7c8023308556b0cbcad0dd2d9dbcc31231fd"),
}

DRF_IDEMPOTENCY = {
    ANSWERED: {
        "key": ANSWERED,
        "fingerprint": "f34e85dfdc40c3b1686e2f2374a46d1f70779e1a7c9e4319e0fbc54dc9836619",
        "status": "completed",
        "response_status_code": 201,
        "response_headers": WITH_TYPE,
        "response_body": "eyJwYWlkIjoxMH0=",
    },
    KILLED: {
        "key": KILLED,
        "fingerprint": "830437e65a9d500c9ee5676b9da7d0d1fcbb5e9ceec9b0df4625c3aa46809eb5",
        "status": "in_progress",
        "response_status_code": None,
        "response_headers": {},
        "response_body": "",
    },
}
DRF_IDEMPOTENCYKEY = {
    ANSWERED: {
        "key": uuid.UUID(ANSWERED),
        "user": USER,
        "request_digest": DIGESTS[ANSWERED],
        "response_code": 201,
        "response_body": '{"paid":10}',
        "response_content_type": "application/json",
        "response_headers": HEADERS,
    },
    KILLED: {
        "key": uuid.UUID(KILLED),
        "user": USER,
        "request_digest": DIGESTS[KILLED],
        "response_code": None,
        "response_body": "",
        "response_content_type": "",
        "response_headers": {},
    },
}
REST_FRAMEWORK_IDEMPOTENCY_KEY = {
    ANSWERED: {
        "idempotency_key": uuid.UUID(ANSWERED),
        "request_digest": DIGESTS[ANSWERED],
        "response_code": 201,
        "response_body": '{"paid":10}',
        "recovery_point": "finished",
    },
    KILLED: {
        "idempotency_key": uuid.UUID(KILLED),
        "request_digest": DIGESTS[KILLED],
        "response_code": None,
        "response_body": None,
        "recovery_point": "started",
    },
}
IDEMKIT_SCOPE = "20"  # the primary key of a user
IDEMKIT = {
    ANSWERED: {
        "effective_key": "22b69a601cdc350a5ca3e1325572243e39384b3ccb01bcdcfe6be3e724bd7f99",
        "fingerprint": "de28900d29bc87bfdf4a7ef73b98ca210bb67cd6b753c5cac3d40058df0b2329",
        "state": "COMPLETED",
        "response_status": 201,
        "response_headers": {"location": "/payments/1/", "content-type": "application/json"},
        "response_body": b'{"paid":10}',
    },
    KILLED: {
        "effective_key": "e6c5dea8408821dffbf7ceb632cead6ba3ff9ac03e3e13284d4d71991bbc5ced",
        "fingerprint": "0fa8fd79827c63cb97705f5f01af67ed2f5b33e1a9b4a04ef359ac60f8f51b79",
        "state": "CLAIMED",
        "response_status": None,
        "response_headers": None,
        "response_body": None,
    },
}
# Of django-idempotency-key: the key in the cache, for `Authorization: Token TOKEN`, and what django-redis wrote there.
CACHE_KEY = "cd4bd4995731d6882c6f7e715a804a3b6ec43b154f44c82e62be7531341e6190"
RESPONSE = (
    b"\x80\x04\x95<\x02\x00\x00\x00\x00\x00\x00\x8c\x17rest_framework.response\x94\x8c\x08Response\x94\x93\x94)\x81\x94}"
    b"\x94(\x8c\x05using\x94N\x8c\x08_request\x94N\x8c\x07headers\x94\x8c\x14django.http.response\x94\x8c\x0fResponse"
    b"Headers\x94\x93\x94)\x81\x94}\x94\x8c\x06_store\x94}\x94(\x8c\x0ccontent-type\x94\x8c\x0cContent-Type\x94\x8c\x10"
    b"application/json\x94\x86\x94\x8c\x08location\x94\x8c\x08Location\x94\x8c\x0c/payments/1/\x94\x86\x94\x8c\x04vary"
    b"\x94\x8c\x04Vary\x94\x8c\x06Accept\x94\x86\x94\x8c\x05allow\x94\x8c\x05Allow\x94\x8c\rPOST, OPTIONS\x94\x86\x94us"
    b"b\x8c\x08_charset\x94N\x8c\x11_resource_closers\x94]\x94\x8c\x0e_handler_class\x94N\x8c\x07cookies\x94\x8c\x0chtt"
    b"p.cookies\x94\x8c\x0cSimpleCookie\x94\x93\x94)\x81\x94\x8c\x06closed\x94\x89\x8c\x0bstatus_code\x94K\xc9\x8c\x0e_"
    b'reason_phrase\x94N\x8c\n_container\x94]\x94C\x0b{"paid":10}\x94a\x8c\x0c_is_rendered\x94\x88\x8c\x04data\x94}'
    b"\x94\x8c\x04paid\x94K\ns\x8c\texception\x94\x89\x8c\x0ccontent_type\x94N\x8c\x13accepted_media_type\x94h\x11\x8c\x11"
    b"_closable_objects\x94]\x94ub."
)
IN_CACHE = b"\x80\x04\x95N\x02\x00\x00\x00\x00\x00\x00BG\x02\x00\x00" + RESPONSE + b"\x94."
