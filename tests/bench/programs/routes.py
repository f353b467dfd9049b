"""The shipped API with one thin route more, and the same inside what other people would trace it with."""

import os

import app


def create_app():
    """Return the shipped application; GET /thin does nothing."""
    flask_app = app.create_app()
    flask_app.add_url_rule("/thin", "thin", lambda: {"status": "ok"})
    return flask_app


def xray():
    """Return it traced as the AWS X-Ray SDK's documentation does, every request sampled."""
    from aws_xray_sdk.core import patch, xray_recorder
    from aws_xray_sdk.ext.flask.middleware import XRayMiddleware

    xray_recorder.configure(service="onboarding-api", sampling=False)
    patch(["botocore"])
    flask_app = create_app()
    XRayMiddleware(flask_app, xray_recorder)
    return flask_app


def elastic_apm():
    """Return it traced by elastic-apm, which reads ELASTIC_APM_*."""
    from elasticapm.contrib.flask import ElasticAPM

    flask_app = create_app()
    ElasticAPM(flask_app)
    return flask_app


def sentry():
    """Return it traced by sentry-sdk, every request sampled; reads SENTRY_DSN."""
    import sentry_sdk

    sentry_sdk.init(os.environ["SENTRY_DSN"], traces_sample_rate=1.0)
    return create_app()
