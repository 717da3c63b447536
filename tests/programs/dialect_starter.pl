#!/usr/bin/perl
# A server for Server::Starter, by its own library; answers its generation and its pid.
use strict;
use warnings;
use IO::Socket::INET;
use Server::Starter qw(server_ports);

my %ports = %{ server_ports() };
my ($fd) = values %ports;
my $listener = IO::Socket::INET->new;
$listener->fdopen($fd, 'r+') or die "cannot open fd $fd: $!";

my $stop = 0;
$SIG{TERM} = sub { $stop = 1 };
vec(my $wanted = '', fileno($listener), 1) = 1;
until ($stop) {
    select(my $found = $wanted, undef, undef, 0.1) > 0 or next;
    my $client = $listener->accept or next;
    while (defined(my $line = <$client>)) {
        last if $line eq "\r\n";
    }
    my $body = "$ENV{SERVER_STARTER_GENERATION} $$\n";
    print {$client} "HTTP/1.1 200 OK\r\nContent-Length: @{[length $body]}\r\n\r\n$body";
    close $client;
}
