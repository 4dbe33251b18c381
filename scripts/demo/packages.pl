#!/usr/bin/perl
# Turns the package list of a Debian system into requests, and answers into rows.
#
#   packages.pl records ARCH DIR SIZE <dpkg-status      batches that create the packages
#   packages.pl relations ARCH DIR SIZE IDS <dpkg-status
#                                                       batches that set the dependencies;
#                                                       IDS holds lines "name<TAB>id"
#   packages.pl get KEY <answer                         one value of a JSON object
#   packages.pl rows KEY... <answer                     the items of a list, one line each
#   packages.pl edges KEY <answer                       name and each value of KEY, one line each
#   packages.pl states <answer                          the replicas of a master: name, database
#                                                       and state, one line each
#   packages.pl tree <answer                            names expanded two levels below the first item
#   packages.pl table HEADING... <rows                  rows aligned for reading
#
# Batches go to DIR/0001.json and so on, SIZE requests each; the number of requests in
# each to DIR/counts. Uses nothing beyond perl-base, which every Debian has.
use strict;
use warnings;

my $records_path = '/api/collections/packages/records';

# ---- a small JSON parser and writer ----

my %escape = ("\n" => '\n', "\r" => '\r', "\t" => '\t', '"' => '\"', '\\' => '\\\\');

sub text_of {
    my ($bytes) = @_;
    my $text = $bytes;
    # Text that is not valid UTF-8 is old Latin-1: its bytes are the characters.
    utf8::decode($text);
    $text =~ s/([\x00-\x1f"\\])/$escape{$1} || sprintf('\u%04x', ord $1)/ge;
    utf8::encode($text);
    return qq("$text");
}

sub decode_json {
    local $_ = shift;
    my $value = eval { value_at() };
    die "packages.pl: the answer is not JSON: " . substr($_, 0, 200) . "\n" if $@ || !/\G\s*\z/gc;
    return $value;
}

sub value_at {
    /\G\s+/gc;
    if (/\G\{\s*/gc) {
        my %object;
        until (/\G\s*\}/gc) {
            /\G\s*,\s*/gc;
            my $key = string_at();
            /\G\s*:/gc or die;
            $object{$key} = value_at();
        }
        return \%object;
    }
    if (/\G\[\s*/gc) {
        my @array;
        until (/\G\s*\]/gc) {
            /\G\s*,/gc;
            push @array, value_at();
        }
        return \@array;
    }
    return 'true'  if /\Gtrue/gc;
    return 'false' if /\Gfalse/gc;
    return ''      if /\Gnull/gc;
    return $1 + 0  if /\G(-?\d+(?:\.\d+)?(?:[eE][-+]?\d+)?)/gc;
    return string_at();
}

sub string_at {
    /\G"((?:[^"\\]|\\.)*)"/gcs or die;
    my $text = $1;
    my %plain = (n => "\n", r => "\r", t => "\t", b => "\b", f => "\f");
    # A character beyond U+FFFF is written as two escapes.
    $text =~ s{\\(?:u(d[89ab]..)\\u(d[c-f]..)|u([0-9a-f]{4})|(.))}
              {defined $1 ? wide(0x10000 + ((hex($1) & 0x3ff) << 10) + (hex($2) & 0x3ff))
                  : defined $3 ? wide(hex $3)
                  : $plain{$4} || $4}gies;
    return $text;
}

sub wide {
    my $character = chr shift;
    utf8::encode($character);
    return $character;
}

# ---- the dpkg database ----

# All installed packages, in the order of the file, each a hash of its fields.
sub installed_packages {
    my ($native) = @_;
    my @packages;
    local $/ = '';
    while (my $paragraph = <STDIN>) {
        my %field;
        $field{lc $1} = $2 while $paragraph =~ /^([A-Za-z-]+):[ \t]*(.*(?:\n[ \t].*)*)/mg;
        next unless ($field{status} || '') =~ / installed$/;
        my $foreign = $field{architecture} ne $native && $field{architecture} ne 'all';
        $field{name} = $foreign ? "$field{package}:$field{architecture}" : $field{package};
        $field{suffix} = $foreign ? ":$field{architecture}" : '';
        push @packages, \%field;
    }
    die "packages.pl: no installed package in the dpkg status file\n" unless @packages;
    return @packages;
}

# The description without its first line, indentation and "." for an empty line.
sub long_description {
    my ($summary, @lines) = split /\n/, shift;
    s/^ // for @lines;
    s/^\.$// for @lines;
    return join "\n", @lines;
}

sub record_of {
    my ($package) = @_;
    my $description = $package->{description} || '';
    my ($summary) = split /\n/, $description;
    my @pairs = (
        ['name', text_of($package->{name})],
        ['version', text_of($package->{version})],
        ['architecture', text_of($package->{architecture})],
        ['section', text_of($package->{section} || '')],
        ['maintainer', text_of($package->{maintainer} || '')],
        ['installed_kb', ($package->{'installed-size'} || 0) + 0],
        ['essential', ($package->{essential} || 'no') eq 'yes' ? 'true' : 'false'],
        ['summary', text_of(defined $summary ? $summary : '')],
        ['description', text_of(long_description($description))],
    );
    push @pairs, ['priority', text_of($package->{priority})] if $package->{priority};
    # A url field takes web addresses; a few packages name something else.
    push @pairs, ['homepage', text_of($package->{homepage})] if ($package->{homepage} || '') =~ m{^https?://\S+$};
    return '{' . join(',', map { qq("$_->[0]":$_->[1]) } @pairs) . '}';
}

# Of each dependency the first alternative that is installed.
sub dependencies_of {
    my ($package, $is_installed, $skipped) = @_;
    my (@names, %seen);
    for my $dependency (split /\s*,\s*/, join ', ', grep { defined } @$package{'pre-depends', 'depends'}) {
        my ($first) = grep { $is_installed->{$_} } map {
            my ($name) = /^\s*([^\s:(]+)/;
            ($name . $package->{suffix}, $name)
        } split /\|/, $dependency;
        if (!defined $first) { $skipped->{missing}++ }
        elsif ($first eq $package->{name}) { $skipped->{self}++ }
        elsif (!$seen{$first}++) { push @names, $first }
        else { $skipped->{repeated}++ }
    }
    return @names;
}

# ---- commands ----

# Writes the requests in batches and returns their number.
sub write_batches {
    my ($directory, $size, @requests) = @_;
    my $total = @requests;
    open my $counts, '>', "$directory/counts" or die "packages.pl: cannot write $directory/counts: $!\n";
    for (my $number = 1; @requests; $number++) {
        my @batch = splice @requests, 0, $size;
        my $path = sprintf '%s/%04d.json', $directory, $number;
        open my $file, '>', $path or die "packages.pl: cannot write $path: $!\n";
        print $file '{"requests":[', join(",\n", @batch), "]}\n";
        close $file or die "packages.pl: cannot write $path: $!\n";
        printf $counts "%s\t%d\n", $path, scalar @batch;
    }
    return $total;
}

my %commands = (
    records => sub {
        my ($native, $directory, $size) = @_;
        my @packages = installed_packages($native);
        my $unusable = grep { $_->{homepage} && $_->{homepage} !~ m{^https?://\S+$} } @packages;
        write_batches($directory, $size, map {
            qq({"method":"POST","url":"$records_path","body":) . record_of($_) . '}'
        } @packages);
        printf "%d packages; home pages left out as they are no web address: %d\n", scalar @packages, $unusable;
    },
    relations => sub {
        my ($native, $directory, $size, $ids_path) = @_;
        my (%id, %skipped, @requests);
        open my $ids, '<', $ids_path or die "packages.pl: cannot read $ids_path: $!\n";
        while (<$ids>) {
            chomp;
            my ($name, $id) = split /\t/;
            $id{$name} = $id;
        }
        my ($edges, @packages) = (0, installed_packages($native));
        for my $package (@packages) {
            my $own = $id{$package->{name}} or die "packages.pl: the server has no package $package->{name}\n";
            my @names = dependencies_of($package, \%id, \%skipped) or next;
            $edges += @names;
            push @requests, qq({"method":"PATCH","url":"$records_path/$own","body":{"depends":[)
                . join(',', map { qq("$id{$_}") } @names) . ']}}';
        }
        write_batches($directory, $size, @requests);
        printf "%d dependencies of %d packages; skipped: %d not installed, %d on itself, %d named twice\n",
            $edges, scalar @requests, map { $skipped{$_} || 0 } qw(missing self repeated);
    },
    get => sub {
        my ($key) = @_;
        my $value = decode_json(join '', <STDIN>);
        die "packages.pl: no $key in the answer\n" unless ref $value eq 'HASH' && defined $value->{$key};
        print "$value->{$key}\n";
    },
    rows => sub {
        for my $item (items()) {
            print join("\t", map { defined $item->{$_} ? $item->{$_} : '' } @_), "\n";
        }
    },
    edges => sub {
        my ($key) = @_;
        for my $item (items()) {
            print "$item->{name}\t$_\n" for @{ $item->{$key} || [] };
        }
    },
    states => sub {
        for my $replica (@{ decode_json(join '', <STDIN>)->{replicas} || [] }) {
            print "$replica->{id}\t$_->{name}\t$_->{state}\n" for @{ $replica->{databases} };
        }
    },
    tree => sub {
        my ($first) = items();
        for my $near (@{ $first->{expand}{depends} || [] }) {
            my @far = map { $_->{name} } @{ $near->{expand}{depends} || [] };
            print "$near->{name}\t$_\n" for @far ? @far : ('');
        }
    },
    table => sub {
        my @lines = ([@_], map { chomp; [split /\t/, $_, -1] } <STDIN>);
        for my $line (@lines) {
            utf8::decode($_) for @$line;
            $_ = length > 64 ? substr($_, 0, 61) . '...' : $_ for @$line;
        }
        my @width;
        for my $line (@lines) {
            for my $column (0 .. $#$line) {
                my $length = length $line->[$column];
                $width[$column] = $length if $length > ($width[$column] || 0);
            }
        }
        for my $number (0 .. $#lines) {
            my $line = $lines[$number];
            my $out = join '  ', map {
                # Numbers and their headings are aligned to the right.
                my $right = $#lines && $lines[1][$_] =~ /^\d+$/;
                my $fill = ' ' x ($width[$_] - length $line->[$_]);
                $right ? $fill . $line->[$_] : $line->[$_] . $fill
            } 0 .. $#$line;
            $out =~ s/ +$//;
            utf8::encode($out);
            print "   $out\n";
        }
    },
);

sub items {
    my $list = decode_json(join '', <STDIN>);
    die "packages.pl: the answer is not a list of records\n" unless ref $list eq 'HASH' && ref $list->{items} eq 'ARRAY';
    return @{ $list->{items} };
}

my $command = shift || '';
my $run = $commands{$command} or die "packages.pl: unknown command '$command'\n";
$run->(@ARGV);
