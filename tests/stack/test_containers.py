"""What the containers may do: nothing as root, no capability, no write outside the volume."""

import pytest
from stacks import Example

SERVICES = ["gateway", "nginx"]


@pytest.mark.parametrize("service", SERVICES)
def test_no_process_runs_as_root_or_could_become_it(example: Example, service):
    processes = example.processes(service)
    assert len(processes) >= 3, processes
    for process in processes:
        for ids in ("Uid", "Gid"):
            assert "0" not in process[ids].split(), process
        for capabilities in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"):
            assert int(process[capabilities], 16) == 0, process
        assert process["NoNewPrivs"] == "1", process
        assert process["Seccomp"] != "0", process


@pytest.mark.parametrize("service", SERVICES)
@pytest.mark.parametrize("path", ["/", "/etc", "/usr", "/opt", "/root", "/srv", "/var", "/run"])
def test_nothing_can_be_written_outside_the_volume_even_by_root(example: Example, service, path):
    ran = example.run_in(service, "touch", f"{path}/written", user="0")
    assert ran.exit_code != 0
    assert "Read-only file system" in ran.err


def test_apps_can_write_to_the_volume_and_only_there(example: Example):
    assert example.run_in("gateway", "touch", "/data/written").exit_code == 0
    ran = example.run_in("gateway", "touch", "/srv/apps/written", user="0")
    assert "Read-only file system" in ran.err
    assert example.run_in("gateway", "rm", "/data/written").exit_code == 0


@pytest.mark.parametrize("service", SERVICES)
def test_limits_and_health_are_set(example: Example, service):
    container = example.container(service)
    host = container.attrs["HostConfig"]
    assert host["Memory"] > 0
    assert host["PidsLimit"] > 0
    assert host["ReadonlyRootfs"]
    assert host["RestartPolicy"]["Name"] == "unless-stopped"
    assert container.attrs["State"]["Health"]["Status"] == "healthy"


def test_commands_find_the_gateway_in_a_directory_of_its_own(example: Example):
    status = ("gateway", "status", "-c", "/srv/apps/mounts.yaml")
    ran = example.run_in("gateway", *status)
    assert ran.exit_code == 0, ran.err
    assert "table /srv/apps/mounts.yaml" in ran.out
    ran = example.run_in("gateway", *status, user="0")  # which has no capability here
    assert ran.exit_code == 1
    assert (
        "Permission denied: is it running, from this table (-c FILE) and as this user?" in ran.err
    )
    ran = example.run_in("gateway", "sh", "-c", "stat -c '%a %u' /run/gateway /run/gateway/*")
    assert ran.out.splitlines() == ["700 10001", "711 10001", "600 10001"]


def test_nginx_cannot_replace_the_gateways_socket(example: Example):
    ran = example.run_in("nginx", "rm", "/run/http/gateway.sock", user="0")
    assert "Read-only file system" in ran.err


def test_only_nginx_is_published(example: Example):
    published = {
        service: [port for port, hosts in example.container(service).ports.items() if hosts]
        for service in SERVICES
    }
    assert published == {"gateway": [], "nginx": ["8080/tcp"]}


def test_nginx_does_not_publish_its_status_page(example: Example):
    assert "Active connections" not in example.fetch("/").text
    ran = example.run_in("nginx", "curl", "-s", "-m", "2", "http://gateway:8001/readyz")
    assert ran.exit_code != 0, "the admin listener can be reached from another container"
