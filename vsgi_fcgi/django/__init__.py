"""A Django app that adds ``manage.py runfcgi``: name it in INSTALLED_APPS."""
