"""AWS on this machine: moto server, with what deploy.sh relies on and moto leaves out or does otherwise.

Runs until it is ended, prints the port it listens on, and takes orders as POST /emulator/NAME with JSON, see ORDERS.
Serves one request at a time, so that the order "fork" can copy everything that exists, in no time.
"""

import itertools
import json
import os
import shlex
import time
from types import SimpleNamespace

import moto.backends
import moto.logs.models
from moto.awslambda.models import LambdaBackend
from moto.awslambda.responses import LambdaResponse
from moto.cloudformation.exceptions import ValidationError
from moto.cloudformation.models import CloudFormationBackend, Event
from moto.cloudformation.parsing import get_model_list, get_model_map
from moto.cloudwatch.responses import CloudWatchResponse
from moto.core import DEFAULT_ACCOUNT_ID as ACCOUNT
from moto.core.exceptions import ServiceException
from moto.core.responses import ActionResult, BaseResponse
from moto.ec2.models.security_groups import SecurityGroup
from moto.ecr.models import Repository, ecr_backends
from moto.ecs.models import Cluster, EC2ContainerServiceBackend
from moto.ecs.responses import EC2ContainerServiceResponse
from moto.logs.models import logs_backends
from moto.moto_server.werkzeug_app import DomainDispatcherApplication, MotoRequestHandler, create_backend_app
from moto.sqs.models import SQSBackend
from moto.sqs.responses import SQSResponse
from werkzeug.serving import make_server

REGION = "us-east-1"
calls = []  # [service, operation] of each request
faults = {}  # operation: "throttled", "denied" or "timed out"
behaviour = {}  # see ORDERS
numbers = itertools.count(1)
running, stopped = {}, []  # tasks of ECS: {ARN: network interface}, [description]
interfaces = []  # of the function
metric_streams = {}


def backend(service):
    """Return moto's backend of a service, in the only account and region."""
    return moto.backends.get_backend(service)[ACCOUNT][REGION]


def refusal(service, code, message):
    """Return the exception that moto turns into an error of this service."""
    return type("Refusal", (ServiceException,), {"__module__": f"moto.{service}.exceptions"})(code, message)


def mend(target):
    """Replace the method of that name; the replacement gets the original before self."""

    def decorate(function):
        original = getattr(target, function.__name__, None)
        setattr(target, function.__name__, lambda self, *args, **options: function(original, self, *args, **options))
        return function

    return decorate


# --- every request --------------------------------------------------------------------------------------------------


@mend(BaseResponse)
def call_action(original, self):
    """Note the operation; fail it if that was ordered."""
    operation = self._get_action()
    calls.append([self.boto3_service_name, operation])
    kind = faults.get(operation)
    if not kind:
        return original(self)
    if kind == "timed out":
        time.sleep(2.5)
    error = (
        ("AccessDeniedException", "not authorized") if kind == "denied" else ("ThrottlingException", "Rate exceeded")
    )
    status, headers, body = self.serialized(ActionResult(refusal(self.boto3_service_name, *error)))
    return 400 if status < 400 else status, headers, body


# --- CloudFormation -------------------------------------------------------------------------------------------------


def teach(kind, create, delete):
    """Teach moto's CloudFormation a type that it skips.

    create: gets name and properties, returns what Ref and GetAtt Arn return. delete: gets what Ref returns.
    """

    def create_from_json(cls, name, definition, *_, **__):
        resource = cls()
        resource.physical_resource_id, resource.arn = create(name, definition["Properties"])
        return resource

    methods = {
        "cloudformation_type": staticmethod(lambda: kind),
        "cloudformation_name_type": staticmethod(lambda: "Name"),
        "has_cfn_attr": classmethod(lambda cls, name: name == "Arn"),
        "get_cfn_attribute": lambda self, name: self.arn,
        "is_created": lambda self: True,
        "create_from_cloudformation_json": classmethod(create_from_json),
        "update_from_cloudformation_json": classmethod(lambda cls, original_resource, **_: original_resource),
        "delete_from_cloudformation_json": classmethod(lambda cls, identity, *_: delete(identity)),
    }
    get_model_map()[kind] = type(kind, (), methods)
    get_model_list().append(get_model_map()[kind])


def create_namespace(name, properties):
    """Make a private DNS namespace of Cloud Map."""
    cloud_map.create_private_dns_namespace(name, "", "", properties["Vpc"], [], properties["Properties"])
    return list(cloud_map.namespaces)[-1], None


def create_name(name, properties):
    """Make a service of Cloud Map."""
    dns, custom = properties["DnsConfig"], properties["HealthCheckCustomConfig"]
    namespace = properties["NamespaceId"]
    made = backend("servicediscovery").create_service(name, namespace, "", "", dns, {}, custom, [], "DNS")
    return made.id, made.arn


def create_secret(name, properties):
    """Make an empty secret."""
    made = backend("secretsmanager").create_secret(name, None, None, None, [], None, None, [], False)
    return json.loads(made)["ARN"], None


def delete_secret(arn):
    """Delete a secret at once, as CloudFormation does."""
    backend("secretsmanager").delete_secret(arn, None, True)


cloud_map = backend("servicediscovery")
teach("AWS::ServiceDiscovery::PrivateDnsNamespace", create_namespace, cloud_map.delete_namespace)
teach("AWS::ServiceDiscovery::Service", create_name, cloud_map.delete_service)
teach("AWS::SecretsManager::Secret", create_secret, delete_secret)
teach("AWS::CloudWatch::Alarm", lambda name, properties: (properties["AlarmName"], None), lambda name: None)


@classmethod
def update_security_group(cls, original_resource, cloudformation_json, **_):
    """Change the rules in place, as AWS does; moto would make another group."""
    (rule,) = cloudformation_json["Properties"].get("SecurityGroupIngress", [None])
    if rule:
        for existing in original_resource.ingress_rules:
            if existing.from_port == rule["FromPort"]:
                existing.ip_range = {"CidrIp": rule["CidrIp"]}
    return original_resource


SecurityGroup.update_from_cloudformation_json = update_security_group


@mend(Repository)
def delete(original, self, account_id, region_name):
    """Heed EmptyOnDelete."""
    ecr_backends[account_id][region_name].delete_repository(self.name, force=True)


def delete_cluster(self, *_):
    """Remove a cluster with its stack, which moto forgets."""
    backend("ecs").clusters.pop(self.name)


Cluster.delete = delete_cluster


def existing(properties):
    """Return the name of a resource if it exists already, or None."""
    taken = {
        "GroupName": [g.name for groups in backend("ec2").groups.values() for g in groups.values()],
        "LogGroupName": list(backend("logs").groups),
        "Name": [s.name for s in backend("secretsmanager").secrets.values()]
        + [n.name for n in backend("servicediscovery").namespaces.values()],
        "QueueName": list(backend("sqs").queues),
        "RepositoryName": list(backend("ecr").repositories),
    }
    return next((properties[key] for key, names in taken.items() if properties.get(key) in names), None)


@mend(CloudFormationBackend)
def create_change_set(original, self, stack_name, change_set_name, template, parameters, *args, **options):
    """Refuse what AWS refuses; take a stack again that was never executed."""
    for stack in list(self.stacks.values()):
        if stack.name == stack_name and stack.status == "REVIEW_IN_PROGRESS":
            del self.stacks[stack.stack_id]
        elif stack.name == stack_name and not stack.status.endswith(("E_COMPLETE", "UPDATE_ROLLBACK_COMPLETE")):
            raise ValidationError(message=f"Stack {stack_name} is in {stack.status} state and can not be updated.")
    ids = original(self, stack_name, change_set_name, template, parameters, *args, **options)
    for stack in self.stacks.values():
        if stack.status == "REVIEW_IN_PROGRESS":
            stack.tags = {}  # until it is executed
    return ids


@mend(CloudFormationBackend)
def execute_change_set(original, self, change_set_name, stack_name=None):
    """Roll back a creation that meets what exists; show the outputs, which moto forgets."""
    change_set = next(c for c in self.change_sets.values() if change_set_name in (c.change_set_id, c.change_set_name))
    stack = change_set.stack
    stack.tags = change_set.tags
    if change_set.change_set_type == "CREATE":
        for name, resource in change_set.template_dict["Resources"].items():
            if found := existing(resource["Properties"]):
                return roll_back(stack, name, f"{found} already exists")
        if behaviour.pop("queue name is blocked", None):
            reason = "You must wait 60 seconds after deleting a queue before you can create another with the same name."
            return roll_back(stack, "Queue", reason)
    elif behaviour.pop("update fails", None):
        stack.status = "UPDATE_ROLLBACK_COMPLETE"
        return event(stack, "Queue", "UPDATE_FAILED", "the reason of the failed update")
    original(self, change_set_name, stack_name)
    defaults = {n: p["Default"] for n, p in change_set.template_dict["Parameters"].items() if "Default" in p}
    stack.parameters = {**defaults, **change_set.parameters}
    stack._parse_template()
    stack.output_map = stack._create_output_map()
    return None


def event(stack, name, status, reason):
    """Add an event of a resource to a stack."""
    identity = SimpleNamespace(stack_id=stack.stack_id, stack_name=stack.name)
    stack.events.append(Event(identity.stack_id, identity.stack_name, name, "", "", status, reason, ""))


def roll_back(stack, name, reason):
    """Leave a stack as a failed creation does."""
    event(stack, name, "CREATE_FAILED", reason)
    stack.status = "ROLLBACK_COMPLETE"


@mend(CloudFormationBackend)
def describe_stacks(original, self, name_or_stack_id):
    """Show a stack as busy for as many times as ordered."""
    found = original(self, name_or_stack_id)
    for stack in found:
        if behaviour.get("polls while the stack is busy", 0) > 0:
            behaviour["polls while the stack is busy"] -= 1
            return [SimpleNamespace(**{**vars(stack), "status": behaviour["busy"], "outputs": None})]
    return found


@mend(CloudFormationBackend)
def delete_stack(original, self, name_or_stack_id):
    """Fail where something uses a part of the stack, as AWS does."""
    for stack in [s for s in self.stacks.values() if name_or_stack_id in (s.name, s.stack_id)]:
        groups = [r.id for r in stack.resource_map.values() if isinstance(r, SecurityGroup)]
        used = [i.id for i in backend("ec2").enis.values() if any(g.id in groups for g in i.group_set)]
        used += [s.name for s in backend("ecs").services.values() if s.status != "INACTIVE"]
        used += [i.instance_id for n in backend("servicediscovery").services.values() for i in n.instances]
        if used:
            stack.status = "DELETE_FAILED"
            return event(stack, "Something", "DELETE_FAILED", f"is in use by {used}")
        if stack.status == "ROLLBACK_COMPLETE":
            stack.resource_map._resource_json_map = {}
    return original(self, name_or_stack_id)


# --- ECS: services start and stop tasks -----------------------------------------------------------------------------


def start_tasks(service):
    """Have as many tasks run as the service wants, each with an interface that has a public address."""
    network = service.network_configuration["awsvpcConfiguration"]
    subnet, ec2 = backend("ec2").get_subnet(network["subnets"][0]), backend("ec2")
    while len(running) > service.desired_count:
        stop_task("Scaling activity initiated by the service")
    while len(running) < service.desired_count:
        number = next(numbers)
        interface = ec2.create_network_interface(subnet, f"192.0.2.{number}", group_ids=network["securityGroups"])
        ec2.associate_address(eni=interface, allocation_id=ec2.allocate_address("vpc").allocation_id)
        arn = f"arn:aws:ecs:{REGION}:{ACCOUNT}:task/cal-onboarding/{number}"
        running[arn] = interface.id
        registry = service.service_registries[0]["registryArn"].split("/")[-1]
        backend("servicediscovery").register_instance(
            registry, f"task-{number}", "", {"AWS_INSTANCE_IPV4": "192.0.2.9"}
        )


def stop_task(reason, exit_code=0):
    """End a task; its address leaves Cloud Map."""
    arn, interface = running.popitem()
    backend("ec2").delete_network_interface(interface)
    for name in backend("servicediscovery").services.values():
        name.instances = [i for i in name.instances if i.instance_id != f"task-{arn.split('/')[-1]}"]
    containers = [{"name": "otel-collector", "exitCode": exit_code, "reason": "the container's reason"}]
    stopped.append({"taskArn": arn, "stoppedReason": reason, "containers": containers})


def deploy(service, **changes):
    """Begin a deployment of a service; the former ones end."""
    deployment = {**service.deployments[0], "id": f"ecs-svc/{next(numbers)}", "rolloutState": "IN_PROGRESS", **changes}
    service.deployments = [deployment]


@mend(EC2ContainerServiceBackend)
def create_service(original, self, cluster_str, service_name, *args, **options):
    """Refuse a second one."""
    for existing_service in self.services.values():
        if existing_service.name == service_name and existing_service.status != "INACTIVE":
            raise refusal("ecs", "InvalidParameterException", "Creation of service was not idempotent.")
    return original(self, cluster_str, service_name, *args, **options)


@mend(EC2ContainerServiceBackend)
def update_service(original, self, properties):
    """Begin a deployment when it needs one."""
    force, before = properties.get("force_new_deployment"), None
    service = self._get_service(properties["cluster"], properties["service"])
    before = service.task_definition
    for name in ("deployment_configuration", "service_registries"):
        properties.pop(name, None)
    original(self, properties)
    if force or service.task_definition != before:
        deploy(service, taskDefinition=service.task_definition, former=before)
    return service


@mend(EC2ContainerServiceBackend)
def describe_services(original, self, *args):
    """Bring each service one step on."""
    services, failures = original(self, *args)
    for service in services:
        if service.status == "DRAINING":
            service.status = "INACTIVE"
        elif service.status == "ACTIVE" and service.deployments[0]["rolloutState"] == "IN_PROGRESS":
            roll_out(service)
    return services, failures


def roll_out(service):
    """Complete a deployment; or let its task fail, and go back to the former one or, without one, give up."""
    deployment = service.deployments[0]
    if not behaviour.get("tasks fail"):
        deployment.update(rolloutState="COMPLETED", rolloutStateReason="ECS deployment completed.")
        start_tasks(service)
        service.running_count = service.desired_count
        return
    stopped.append(
        {
            "taskArn": f"arn:aws:ecs:{REGION}:{ACCOUNT}:task/cal-onboarding/{next(numbers)}",
            "stoppedReason": "Essential container in task exited",
            "containers": [{"name": "otel-collector", "exitCode": 64, "reason": "CORALOGIX_DOMAIN is missing"}],
        }
    )
    service.events = [{"id": "1", "createdAt": 0, "message": "(service onboarding-api) was unable to place a task"}]
    reason = "ECS deployment circuit breaker: tasks failed to start."
    if deployment.get("former"):
        service.task_definition = deployment["former"]
        deploy(service, taskDefinition=deployment["former"], rolloutState="COMPLETED", rolloutStateReason=reason)
    else:
        deployment.update(rolloutState="FAILED", rolloutStateReason=reason)


@mend(EC2ContainerServiceBackend)
def delete_service(original, self, *args):
    """Drain it first."""
    service = original(self, *args)
    service.status = "DRAINING"
    while running:
        stop_task("Service deleted")
    return service


@mend(EC2ContainerServiceBackend)
def describe_task_definition(original, self, task_definition_str):
    """Find the latest active revision of a family, and none if all are inactive."""
    found = original(self, task_definition_str)
    if ":" not in task_definition_str:
        active = [r for r in self.task_definitions[found.family].values() if r.status == "ACTIVE"]
        if not active:
            raise refusal("ecs", "ClientException", "Unable to describe task definition.")
        return active[-1]
    return found


@mend(EC2ContainerServiceResponse)
def list_tasks(original, self):
    """Return the tasks of the only service."""
    is_stopped = self._get_param("desiredStatus") == "STOPPED"
    return ActionResult({"taskArns": [task["taskArn"] for task in stopped] if is_stopped else list(running)})


@mend(EC2ContainerServiceResponse)
def describe_tasks(original, self):
    """Return what is known of tasks."""
    known = {task["taskArn"]: {**task, "lastStatus": "STOPPED"} for task in stopped}
    for arn, interface in running.items():
        details = [{"name": "networkInterfaceId", "value": interface}]
        known[arn] = {"taskArn": arn, "lastStatus": "RUNNING", "attachments": [{"details": details}]}
    return ActionResult({"tasks": [known[arn] for arn in self._get_param("tasks", [])]})


# --- Lambda: a function has interfaces, and gives them up late ------------------------------------------------------


@mend(LambdaBackend)
def create_function(original, self, spec):
    """Make the interfaces of the function."""
    function = original(self, spec)
    for subnet in spec["VpcConfig"]["SubnetIds"]:
        address, groups = f"198.51.100.{next(numbers)}", spec["VpcConfig"]["SecurityGroupIds"]
        interface = backend("ec2").create_network_interface(
            backend("ec2").get_subnet(subnet), address, group_ids=groups
        )
        interfaces.append(interface.id)
    return function


@mend(LambdaBackend)
def delete_function(original, self, *args, **options):
    """Leave the interfaces for as many looks as ordered."""
    original(self, *args, **options)
    behaviour["looks until the interfaces are gone"] = behaviour.get("looks", 1)


@mend(type(backend("ec2")))
def get_all_network_interfaces(original, self, *args, **options):
    """Give up the interfaces of a removed function in time."""
    if "looks until the interfaces are gone" in behaviour:
        behaviour["looks until the interfaces are gone"] -= 1
        if behaviour["looks until the interfaces are gone"] < 0:
            del behaviour["looks until the interfaces are gone"]
            while interfaces:
                self.delete_network_interface(interfaces.pop())
    return original(self, *args, **options)


@mend(LambdaBackend)
def update_function_code(original, self, function_name, qualifier, body):
    """Take the architecture as well."""
    self.get_function(function_name, qualifier).architectures = body["Architectures"]
    return original(self, function_name, qualifier, body)


@mend(LambdaResponse)
def get_function_configuration(original, self):
    """Show the function as ordered."""
    response = original(self)
    states = behaviour.get("function states", [])
    if not states:
        return response
    return json.dumps({**json.loads(response), **states.pop(0)})


@mend(LambdaBackend)
def create_event_source_mapping(original, self, spec):
    """Refuse a second one."""
    for mapping in self.list_event_source_mappings(spec["EventSourceArn"], spec["FunctionName"]):
        raise refusal("lambda", "ResourceConflictException", f"already exists: {mapping.uuid}")
    return original(self, spec)


class LogFilter:
    """A filter pattern of CloudWatch Logs: words or quoted terms, all of which, or with ? one of which, a line has."""

    def __init__(self, pattern):
        terms = shlex.split(pattern or "")
        self.match = any if pattern and pattern.startswith("?") else all
        self.terms = [term.removeprefix("?") for term in terms]

    def matches(self, message):
        """Return whether a line matches."""
        return self.match(term in message for term in self.terms)


moto.logs.models.EventMessageFilter = LogFilter  # moto's knows one term


# --- what moto responds to with 500 -----------------------------------------------------------------------------------


@mend(CloudWatchResponse)
def put_metric_stream(original, self):
    """Make or change one; only a new one takes the tags."""
    name = self._get_param("Name")
    arn = f"arn:aws:cloudwatch:{REGION}:{ACCOUNT}:metric-stream/{name}"
    known = {key: self._get_param(key) for key in ("FirehoseArn", "RoleArn", "OutputFormat", "IncludeFilters")}
    if name not in metric_streams:
        self.cloudwatch_backend.tagger.tag_resource(arn, self._get_param("Tags", []))
    metric_streams[name] = {"Name": name, "Arn": arn, "State": "running", **known}
    return ActionResult({"Arn": arn})


@mend(CloudWatchResponse)
def get_metric_stream(original, self):
    """Return one."""
    if self._get_param("Name") not in metric_streams:
        raise refusal("cloudwatch", "ResourceNotFoundException", "MetricStream does not exist")
    return ActionResult(metric_streams[self._get_param("Name")])


@mend(CloudWatchResponse)
def delete_metric_stream(original, self):
    """Remove one."""
    metric_streams.pop(self._get_param("Name"), None)
    return ActionResult({})


@mend(SQSBackend)
def receive_message(original, self, queue_name, count, wait_seconds_timeout, *args, **options):
    """Find nothing without waiting, as SQS may; and do not wait."""
    return original(self, queue_name, count, 0, *args, **options) if wait_seconds_timeout else []


@mend(SQSResponse)
def start_message_move_task(original, self):
    """Move everything from one queue to the one it came from."""
    source = self.sqs_backend.get_queue(self._get_param("SourceArn").split(":")[-1])
    target = next(q for q in self.sqs_backend.queues.values() if q.redrive_policy)
    for message in source._messages:
        target.add_message(message)
    source._messages = []
    return ActionResult({"TaskHandle": "the-task"})


# --- orders ---------------------------------------------------------------------------------------------------------


def smoke(order):
    """POST /telemetry/smoke at the public address of a task: what the three programs would log."""
    trace, now = f"{next(numbers):032x}", int(time.time() * 1000)
    lines = {
        "/ecs/cal-onboarding-api": [f"INFO PRODUCER trace_id={trace} message_id=1"],
        "/aws/lambda/cal-onboarding-lambda": [
            f"[INFO] extracted traceparent 00-{trace}-0000000000000001-03",
            f"[INFO] Flush {behaviour.get('flush', 'complete accepted=2')}",
        ],
        "/ecs/cal-otel-collector": ["info Everything is ready.", *behaviour.get("collector", [])],
    }
    for group, messages in lines.items():
        log(group, now, *messages)
    return {"status": "queued", "trace_id": trace}


def log(group, now, *messages):
    """Add lines to a log group."""
    logs = logs_backends[ACCOUNT][REGION]
    if "1" not in logs.groups[group].streams:
        logs.create_log_stream(group, "1")
    logs.put_log_events(group, "1", [{"timestamp": now, "message": message} for message in messages])


def fork(order):
    """Serve everything as it is now on another port, in a process of its own."""
    reader, writer = os.pipe()
    process = os.fork()
    if process == 0:
        calls.clear()
        serve(writer)
        os._exit(0)
    os.close(writer)
    with os.fdopen(reader) as ready:
        return {"port": int(ready.readline()), "process": process}


ORDERS = {
    "fork": fork,
    "smoke": smoke,
    "calls": lambda order: calls[:],
    "forget": lambda order: calls.clear(),
    "faults": lambda order: (faults.clear(), faults.update(order)),
    "behaviour": behaviour.update,
    "metric-streams": lambda order: sorted(metric_streams),
    "stack": lambda order: vars(next(iter(backend("cloudformation").stacks.values()))).update(order),
    "log": lambda order: log(order["group"], int(time.time() * 1000), order["message"]),
}
moto_server = DomainDispatcherApplication(create_backend_app)


def application(environ, start_response):
    """Carry out an order, or pass the request to moto."""
    path = environ["PATH_INFO"]
    if not path.startswith("/emulator/"):
        return moto_server(environ, start_response)
    body = environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))
    result = ORDERS[path.removeprefix("/emulator/")](json.loads(body or "null"))
    start_response("200 OK", [("Content-Type", "application/json")])
    return [json.dumps(result).encode()]


def connect_default_vpc():
    """Give the default VPC its way to the internet, which moto's lacks."""
    ec2 = backend("ec2")
    gateway = ec2.create_internet_gateway()
    (vpc,) = ec2.vpcs.values()
    ec2.attach_internet_gateway(gateway.id, vpc.id)
    ec2.create_route(next(iter(ec2.route_tables)), "0.0.0.0/0", gateway_id=gateway.id)


def serve(output):
    """Write the port to a file descriptor and serve, until the process that started this one is gone."""
    server, parent = make_server("127.0.0.1", 0, application, request_handler=MotoRequestHandler), os.getppid()
    server.service_actions = lambda: os.getppid() == parent or os._exit(0)
    os.write(output, f"{server.port}\n".encode())
    if output != 1:
        os.close(output)
    server.serve_forever()


if __name__ == "__main__":
    connect_default_vpc()
    serve(1)
