"""The variables that Lambda itself sets, as far as the function or its resource detection reads them.

https://docs.aws.amazon.com/lambda/latest/dg/configuration-envvars.html#configuration-envvars-runtime
"""

GIVEN_BY_LAMBDA = {
    "AWS_REGION": "us-east-1",
    "AWS_LAMBDA_FUNCTION_NAME": "cal-onboarding-lambda",
    "AWS_LAMBDA_FUNCTION_VERSION": "$LATEST",
    "AWS_LAMBDA_FUNCTION_MEMORY_SIZE": "512",
    "AWS_LAMBDA_INITIALIZATION_TYPE": "on-demand",
    "AWS_LAMBDA_LOG_LEVEL": "INFO",  # only where the function's LogFormat is JSON
    "AWS_LAMBDA_LOG_GROUP_NAME": "/aws/lambda/cal-onboarding-lambda",
    "AWS_LAMBDA_LOG_STREAM_NAME": "2026/01/01/[$LATEST]0123456789abcdef",
}
