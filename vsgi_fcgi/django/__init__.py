"""Django app with the command ``manage.py runfcgi``; add it to INSTALLED_APPS."""
