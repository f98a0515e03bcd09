"""The fault suite's project for a WSGI server: see `project.py` for what the environment says."""

import logging

from django.core.wsgi import get_wsgi_application

from benchmarks.faults.project import configure, plant

wanted = configure(CONN_MAX_AGE=None)
logging.disable(logging.CRITICAL)  # what goes wrong here is meant to
application = plant(wanted, get_wsgi_application())
