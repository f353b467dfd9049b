// Package sanitizer is a processor of the Collector that keeps what one sender puts into its spans from harming the
// telemetry of others: RED metrics, and every request in which other spans travel with it.
package sanitizer

import (
	"context"
	"math"
	"strings"
	"unicode/utf8"

	"go.opentelemetry.io/collector/component"
	"go.opentelemetry.io/collector/consumer"
	"go.opentelemetry.io/collector/pdata/pcommon"
	"go.opentelemetry.io/collector/pdata/ptrace"
	"go.opentelemetry.io/collector/processor"
	"go.opentelemetry.io/collector/processor/processorhelper"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

const (
	maxBytes = 4096   // of a name or value: what is a label is kept with its series
	maxDepth = 20     // of a value in lists and maps: other protobuf libraries reject a request with about 33
	maxSpans = 10_000 // of a request: two bytes make a span that takes 300 in memory
)

// NewFactory is what the Collector Builder looks for.
func NewFactory() processor.Factory {
	configuration := func() component.Config { return &struct{}{} }
	return processor.NewFactory(component.MustNewType("sanitizer"), configuration,
		processor.WithTraces(create, component.StabilityLevelStable))
}

func create(
	ctx context.Context, set processor.Settings, cfg component.Config, next consumer.Traces,
) (processor.Traces, error) {
	return processorhelper.NewTraces(ctx, set, cfg, next, sanitize)
}

func sanitize(_ context.Context, traces ptrace.Traces) (ptrace.Traces, error) {
	if spans := traces.SpanCount(); spans > maxSpans {
		return traces, status.Errorf(codes.InvalidArgument, "%d spans in a request, at most %d are taken", spans, maxSpans)
	}
	for _, resourceSpans := range traces.ResourceSpans().All() {
		resource := resourceSpans.Resource().Attributes()
		attributes(resource, maxBytes)
		if _, found := resource.Get("service.name"); !found {
			resource.PutStr("service.name", "unknown_service") // span metrics count no span without
		}
		resourceSpans.SetSchemaUrl(valid(resourceSpans.SchemaUrl()))
		for _, scopeSpans := range resourceSpans.ScopeSpans().All() {
			scope := scopeSpans.Scope()
			scope.SetName(valid(scope.Name()))
			scope.SetVersion(valid(scope.Version()))
			attributes(scope.Attributes(), maxBytes)
			scopeSpans.SetSchemaUrl(valid(scopeSpans.SchemaUrl()))
			for _, span := range scopeSpans.Spans().All() {
				sanitizeSpan(span)
			}
		}
	}
	return traces, nil
}

func sanitizeSpan(span ptrace.Span) {
	span.TraceState().FromRaw("") // with "ot=th:..." in it span metrics count the span up to 2^56 times
	span.SetName(short(span.Name(), maxBytes))
	span.Status().SetMessage(valid(span.Status().Message()))
	attributes(span.Attributes(), maxBytes)
	for _, event := range span.Events().All() {
		event.SetName(valid(event.Name()))
		attributes(event.Attributes(), math.MaxInt) // stack traces
	}
	for _, link := range span.Links().All() {
		link.TraceState().FromRaw("")
		attributes(link.Attributes(), maxBytes)
	}
}

func attributes(all pcommon.Map, limit int) {
	// One whose name is wrong can't be renamed in place.
	all.RemoveIf(func(name string, _ pcommon.Value) bool { return len(name) > maxBytes || !utf8.ValidString(name) })
	for _, value := range all.All() {
		sanitizeValue(value, limit, 1)
	}
}

func sanitizeValue(value pcommon.Value, limit, depth int) {
	switch value.Type() {
	case pcommon.ValueTypeStr:
		value.SetStr(short(value.Str(), limit))
	case pcommon.ValueTypeSlice, pcommon.ValueTypeMap:
		switch {
		case depth == maxDepth:
			value.SetStr("")
		case value.Type() == pcommon.ValueTypeMap:
			value.Map().RemoveIf(func(name string, _ pcommon.Value) bool { return !utf8.ValidString(name) })
			for _, item := range value.Map().All() {
				sanitizeValue(item, limit, depth+1)
			}
		default:
			for _, item := range value.Slice().All() {
				sanitizeValue(item, limit, depth+1)
			}
		}
	}
}

func short(text string, limit int) string {
	return valid(text[:min(len(text), limit)])
}

func valid(text string) string {
	return strings.ToValidUTF8(text, "\uFFFD")
}
