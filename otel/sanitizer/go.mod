module onboarding.invalid/otel/sanitizer

go 1.25.0

require (
	go.opentelemetry.io/collector/component v1.68.0
	go.opentelemetry.io/collector/consumer v1.68.0
	go.opentelemetry.io/collector/pdata v1.68.0
	go.opentelemetry.io/collector/processor v1.68.0
	go.opentelemetry.io/collector/processor/processorhelper v0.162.0
	google.golang.org/grpc v1.83.2
)
